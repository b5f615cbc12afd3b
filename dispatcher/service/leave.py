"""The end of a process that handlers would hold up."""

import asyncio
import os
import sys
import threading


def leave_if_held_up(code: int) -> None:
    """End the process now when a task or thread of a handler goes on: all is settled, and nobody waits for it."""
    if len(asyncio.all_tasks()) > 1 or any(not thread.daemon for thread in threading.enumerate()[1:]):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
