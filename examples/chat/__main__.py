"""`python -m chat`: everything that the chat needs, and the address of a page with two panes. Ctrl-C ends it all."""

import argparse
import os
import sys
import webbrowser

from dispatcher.embedded import free_port

from parts import Parts, say, together


def main() -> None:
    """Start it and stay."""
    options = argparse.ArgumentParser(prog="python -m chat", description=__doc__)
    options.add_argument("--port", type=int, default=0, help="of the gateway; by default any that is free")
    options.add_argument("--no-browser", action="store_true", help="print the address only")
    given = options.parse_args()
    port = given.port or free_port()
    address = f"http://127.0.0.1:{port}/"

    def begin(parts: Parts) -> None:
        parts.environment = {**parts.environment, "CHAT_PORT": str(port)}
        parts.start("gateway", "chat.app", url=address)
        say(f"\nTwo panes: {address}\nKill any of these processes, and write on meanwhile. Ctrl-C ends everything.\n")
        if not given.no_browser and has_screen():
            webbrowser.open(address)

    together(begin, settings={"DISPATCH_STREAM_SHARDS": os.environ.get("DISPATCH_STREAM_SHARDS", "1")})


def has_screen() -> bool:
    """Whether a browser would open a window: those of a terminal would take this one."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main()
