"""What dispatcher.client promises without a server: nothing heavy is imported, nothing private is shown."""

import subprocess
import sys

from dispatcher.client import Event

HEAVY = {"aiohttp", "anyio", "click", "django", "loguru", "prometheus_client", "rich", "sqlalchemy"}


def test_an_event_shows_no_payload() -> None:
    assert "secret" not in repr(Event(event_type="a", aggregate_id="b", payload="secret", headers={"secret": "x"}))


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    names = "dispatcher.client, dispatcher.client.inbox, dispatcher.client.consumer"
    program = f"import sys, {names}\nprint(sorted({HEAVY} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (shown.stdout, shown.stderr) == ("[]\n", "")
