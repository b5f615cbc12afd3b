"""`python -m bench.flood_client <port> <method> <path> <token> <connections>`: asks without a pause.

A process of its own, started by `flood`. It ends when its standard input does or says anything, and prints how many
answers of each status it had, as JSON. A connection that is refused or ended is tried again.
"""

import asyncio
import json
import re
import sys
from collections import Counter


async def ask(port: int, request: bytes, answers: "Counter[str]") -> None:
    """One connection, again and again."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            answers["refused"] += 1
            await asyncio.sleep(0)
            continue
        try:
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                answers[head[9:12].decode()] += 1
                if length := re.search(rb"(?i)content-length: (\d+)", head):
                    await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            answers["ended"] += 1
        finally:
            writer.close()


async def main() -> None:
    """All of them, until told to end."""
    port, method, path, token, connections = sys.argv[1:]
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    answers: Counter[str] = Counter()
    tasks = [asyncio.create_task(ask(int(port), request, answers)) for _ in range(int(connections))]
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(answers))


asyncio.run(main())
