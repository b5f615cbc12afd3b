"""The event loop of a process with handlers: a task that an async handler starts cannot end it."""

from dispatcher.infra.event_loop import EventLoop


class HandlerLoop(EventLoop):
    """Goes on after SystemExit and KeyboardInterrupt of a task or callback, while `handlers_run`.

    asyncio lets these two end the loop from any task, also from one that a handler has started (in a TaskGroup, say)
    and awaits. The awaiting handler gets the error all the same. Ctrl-C is no KeyboardInterrupt then: the dispatcher
    has a signal handler of its own.
    """

    handlers_run = False  # written by HandlerRelay.run()

    def run_forever(self) -> None:
        """Run until stop()."""
        while True:
            try:
                return super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if not self.handlers_run:
                    raise
                name = type(error).__name__
                self.call_exception_handler({"message": f"a task or callback of a handler raised {name}; it goes on"})
