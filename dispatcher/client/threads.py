"""Carries out the steps of a Consumer's readers: of one on the thread of run(), of several on a thread each.

The threads of several readers wait for Redis. Entries are handled on the thread of run(), with `concurrency` above 1 on
so many: a function keeps its thread's database connections.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.client.commands import GONE
from dispatcher.client.function_answers import failing
from dispatcher.client.reader import Reader
from dispatcher.client.steps import (
    AwaitEntry,
    Call,
    CallApplication,
    Handle,
    Join,
    Reconnect,
    ReturnPermit,
    Sleep,
    Step,
    Steps,
    TakePermit,
    advance,
)

Run = Callable[[CallApplication], Any]


class ThreadRunner:
    """One reader at work. The code between two of its steps runs on one thread at a time."""

    def __init__(self, reader: Reader, commands: Any) -> None:
        self._reader = reader
        self._commands = commands
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler
        self._lock = threading.Lock()
        self._handled = threading.Condition(self._lock)
        self._in_hand = 0  # entries that others carry out; written under the lock

    def stop(self) -> None:
        """From any thread, or from a signal handler."""
        self._reader.stopping = True
        self._woken.put(None)

    def end(self) -> None:
        """Its work has ended: close its connections, and forget the stop, so that work() may be called again."""
        self._commands.close()
        self._reader.stopping = False
        while not self._woken.empty():
            self._woken.get()

    def work(self, run: Run, crew: "Crew | None" = None) -> None:
        """Until the reader has ended. `crew`: who handles its entries; None: this thread."""
        self._carry_out(self._reader.steps(), run, crew)

    def take(self, steps: Steps, run: Run, crew: "Crew") -> None:
        """Carry out the steps of an entry, for a crew."""
        try:
            self._carry_out(steps, run, crew)
        except Exception as error:
            with self._lock:
                self._reader.failed.append(error)
        finally:
            with self._lock:
                self._in_hand -= 1
                self._handled.notify_all()

    def _carry_out(self, steps: Steps, run: Run, crew: "Crew | None") -> None:
        answer: Any = None
        failure: Exception | None = None
        with contextlib.closing(steps):
            while True:
                with self._lock:
                    step = advance(steps, answer, failure)
                if step is None:
                    return
                answer = failure = None
                try:
                    answer = self._do(step, run, crew)
                except Exception as error:
                    failure = error

    def _do(self, step: Step, run: Run, crew: "Crew | None") -> Any:
        match step:
            case Call(method, arguments, options):
                return getattr(self._commands, method)(*arguments, **options)
            case CallApplication():
                with failing():
                    return run(step)
            case TakePermit(seconds):
                return crew is None or crew.take_permit(self, seconds)
            case ReturnPermit() if crew is not None:
                crew.return_permit(self)
            case Handle(steps) if crew is None:
                self._carry_out(steps, run, None)
            case Handle(steps) if crew is not None:
                with self._lock:
                    self._in_hand += 1
                crew.handle(self, steps)
            case Join() if crew is not None:
                with self._handled:
                    self._handled.wait_for(lambda: not self._in_hand)
            case AwaitEntry(seconds) if crew is not None:
                with self._handled:
                    begun = self._in_hand
                    self._handled.wait_for(lambda: self._in_hand < begun or not begun, seconds)
            case Reconnect():
                with contextlib.suppress(*GONE):
                    self._commands.reconnect()
            case Sleep(seconds) if not self._reader.stopping:
                with contextlib.suppress(queue.Empty):
                    self._woken.get(timeout=seconds)
        return None


def work(runners: Sequence[ThreadRunner], concurrency: int, run: Run, *, single: bool) -> None:
    """Until all readers have ended. One that fails stops the others, and its error is raised.

    `single`: the one reader handles its entries itself, and does nothing else meanwhile.
    """
    if single:
        runners[0].work(run)
    else:
        Crew(runners, concurrency, run).work()


class Crew:
    """The threads of several readers, and the `concurrency` threads that handle their entries."""

    def __init__(self, runners: Sequence[ThreadRunner], concurrency: int, run: Run) -> None:
        self._runners = runners
        self._concurrency = concurrency
        self._run = run
        self._permits = threading.Semaphore(concurrency)
        self._have_permits: set[ThreadRunner] = set()  # and have not used them; each runner's own thread writes its own
        self._entries: queue.SimpleQueue[tuple[ThreadRunner, Steps] | None] = queue.SimpleQueue()  # None: go home
        self._failures: list[BaseException] = []  # the first is raised by work()

    def work(self) -> None:
        """Until all readers have ended."""
        readers = [threading.Thread(target=self._read, args=(each,), daemon=True) for each in self._runners]
        helpers = [threading.Thread(target=self._help, daemon=True) for _ in range(self._concurrency - 1)]
        end = threading.Thread(target=self._end, args=(readers,), daemon=True)
        for thread in (*readers, *helpers, end):
            thread.start()
        try:
            self._serve()
        except BaseException as error:  # as of Ctrl-C: the others finish what they have in hand
            self._fail(error)
            self._serve()
        for thread in helpers:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def take_permit(self, runner: ThreadRunner, seconds: float) -> bool:
        """Whether a thread is free for an entry, within so many seconds."""
        if not self._permits.acquire(timeout=seconds):
            return False
        self._have_permits.add(runner)
        return True

    def return_permit(self, runner: ThreadRunner) -> None:
        """Give back a permit that was not used."""
        if runner in self._have_permits:
            self._have_permits.remove(runner)
            self._permits.release()

    def handle(self, runner: ThreadRunner, steps: Steps) -> None:
        """Use the permit: let a thread carry out the steps of an entry."""
        self._have_permits.discard(runner)
        self._entries.put((runner, steps))

    def _read(self, runner: ThreadRunner) -> None:
        try:
            runner.work(self._run, self)
        except Exception as error:
            self._fail(error)
        finally:
            self.return_permit(runner)

    def _help(self) -> None:
        """Serve to the end, though the function wants to end this thread (sys.exit): run() ends for it, for all."""
        while True:
            try:
                return self._serve()
            except BaseException as error:
                self._fail(error)

    def _serve(self) -> None:
        while (entry := self._entries.get()) is not None:
            runner, steps = entry
            try:
                runner.take(steps, self._run, self)
            finally:
                self._permits.release()

    def _fail(self, error: BaseException) -> None:
        self._failures.append(error)
        for runner in self._runners:
            runner.stop()

    def _end(self, readers: Sequence[threading.Thread]) -> None:
        """When all readers have ended, so do those who serve them."""
        for thread in readers:
            thread.join()
        for _ in range(self._concurrency + 1):
            self._entries.put(None)
