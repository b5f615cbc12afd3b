"""`python -m bench.rivals <name>`: relay until SIGTERM. Addresses come by the environment, as a dispatcher's.

`python -m bench.rivals install`: install what runs on Node.js (see node.py).
"""

import asyncio
import os
import signal
import sys

from bench.rivals import RIVALS, node


async def main(name: str) -> None:
    """Relay until told to stop."""
    relay = asyncio.ensure_future(
        RIVALS[name].relay(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], os.environ["DISPATCH_STREAM_NAME"])
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.cancel)
    await asyncio.wait([relay])
    if not relay.cancelled():
        relay.result()


if __name__ == "__main__":
    if sys.argv[1] == "install":
        sys.exit(node.install())
    import uvloop

    uvloop.run(main(sys.argv[1]))
