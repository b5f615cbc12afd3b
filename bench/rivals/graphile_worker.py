"""graphile-worker: on Node, with its local queue and batched completion, as in its own performance test."""

from bench.rivals import node
from bench.rivals.entry import OF_ONE, OF_SAMPLES

PACKAGE = "graphile-worker"
JOBS = 100  # at once: with 24, as in its own test, three quarters of the backlog's rate; 200 were no faster
CHANGES = (
    f"concurrentJobs {JOBS}, localQueue size 500 with refetchDelay 10 ms, completeJobBatchDelay 0, a pool of 25, "
    "as in its own performance test but for the number of jobs (24 there, and slower with a backlog)"
)
FILL = f"""
    SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
        SELECT ROW('relay', ({OF_SAMPLES})::json, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec
        FROM generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% %s
    ))
"""
LEFT = "SELECT count(*) FROM graphile_worker._private_jobs"
EMPTY = "TRUNCATE graphile_worker._private_jobs"


async def prepare(url: str) -> None:
    """Its tables."""
    node.run("graphile_worker", "prepare", {"DATABASE_URL": url, "JOBS": "1"})


def insert() -> str:
    """The function that its documentation has for other languages."""
    return f"SELECT graphile_worker.add_job('relay', ({OF_ONE})::json)"


def command() -> tuple[str, ...]:
    """Its worker."""
    return node.command("graphile_worker")
