"""What the running dispatchers say of themselves: their settings that matter to others, and what they wait for."""

from dispatcher.core.findings.condition import Condition
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.pause import read_acknowledgements
from dispatcher.ops.session import OperatorSession


class ConditionSession(OperatorSession):
    """Asks Postgres what the dispatchers wrote there."""

    verb = "ask what the dispatchers say"


async def read_conditions(where: PostgresTarget) -> list[Condition]:
    """Of each enabled dispatcher that runs and says something. Raises DispatcherError."""
    async with ConditionSession(where) as asking:
        with asking.explained():
            found = await read_acknowledgements(asking.session)
    return [each.condition for each in found if each.condition != Condition()]
