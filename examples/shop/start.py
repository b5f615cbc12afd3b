"""`make shop`: servers, dispatchers, migrations, API and worker, and two commands to try. Ctrl-C ends it all."""

import argparse

from dispatcher.embedded import free_port

from parts import Parts, say, together


def main() -> None:
    """Start it and stay."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=0, help="of the API; by default any that is free")
    port = options.parse_args().port or free_port()
    address = f"http://127.0.0.1:{port}"

    def begin(parts: Parts) -> None:
        parts.run("alembic", "upgrade", "head")
        parts.start("worker", "shop.worker")
        parts.start("api", "uvicorn", "shop.api:app", "--port", str(port), url=f"{address}/openapi.json")
        say(f"""
API: {address}

curl {address}/orders -H 'Content-Type: application/json' -d '{{"customer": "ada", "total": "42.50"}}'
curl {address}/orders/1      the worker has written its invoice: "invoiced": true

Kill any of these processes, and order on meanwhile. Ctrl-C ends everything.
""")

    together(begin)


if __name__ == "__main__":
    main()
