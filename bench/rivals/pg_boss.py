"""pg-boss: on Node, batches, woken by NOTIFY, fetching on while batches are full."""

import json

from bench.rivals import node
from bench.rivals.entry import OF_ONE, OF_SAMPLES

PACKAGE = "pg-boss"
JOBS = 500
CHANGES = (
    f"useListenNotify and a queue with notify, batchSize {JOBS}, localConcurrency 2, burstWhenBatchFull, "
    "pollingIntervalSeconds 0.5"
)
LEFT = "SELECT count(*) FROM pgboss.job WHERE name = 'relay' AND state < 'completed'"
EMPTY = "TRUNCATE pgboss.job"
FILL = ""  # written by prepare()
_insert = ""


async def prepare(url: str) -> None:
    """Its tables, its queue, and the statement that it sends a job with."""
    global FILL, _insert
    node.run("pg_boss", "prepare", {"DATABASE_URL": url})
    said = json.loads(node.run("pg_boss", "insert", {"DATABASE_URL": url}).splitlines()[-1])
    [[job]] = map(json.loads, said["values"])
    others = json.dumps({name: value for name, value in job.items() if name not in ("data", "id")})
    statement = said["text"]
    if statement.count("$1") != 1:
        raise RuntimeError("this version of pg-boss sends otherwise: its statement has not one parameter")

    def jobs(body: str) -> str:
        return f"'{others}'::jsonb || jsonb_build_object('data', {body})"

    _insert = statement.replace("$1", f"jsonb_build_array({jobs(OF_ONE)})")
    samples = "generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% %s"
    before, after = statement.replace("%", "%%").split("$1")
    FILL = f"{before}(SELECT jsonb_agg({jobs(OF_SAMPLES)}) FROM {samples}){after}"


def insert() -> str:
    """What `send` runs, in the application's transaction."""
    return _insert


def command() -> tuple[str, ...]:
    """Its worker."""
    return node.command("pg_boss")
