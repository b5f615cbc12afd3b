"""Drives the steps of a reader of dispatcher.client by hand."""

from typing import Any

from dispatcher.client.steps import AwaitEntry, Handle, Join, ReturnPermit, Step, Steps, advance


def flat(steps: Steps) -> Steps:
    """The steps as a reader that is alone has them: entries are handled where they come. Permits are the test's."""
    answer: Any = None
    failure: Exception | None = None
    while (step := advance(steps, answer, failure)) is not None:
        answer = failure = None
        try:
            answer = yield from _one(step)
        except Exception as error:
            failure = error


def _one(step: Step) -> Steps:
    match step:
        case ReturnPermit() | Join() | AwaitEntry():
            return None
        case Handle(inner):
            return (yield from flat(inner))
        case _:
            return (yield step)
