import pytest

from tests.fixtures.child import StartCli
from tests.fixtures.prometheus import PrometheusFailed, StartPrometheus


@pytest.mark.one_version
async def test_a_real_prometheus_scrapes_a_real_dispatcher(
    cli: StartCli, database_url: str, redis_url: str, prometheus: StartPrometheus
) -> None:
    child = await cli("run", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"})
    await child.ready()
    async with prometheus(child.http_url) as seen:
        await seen.until('up{job="dispatcher"} == 1')
        await seen.until('messaging_dispatch_ticks_total{result="ok"} > 0')
        assert (await seen.metadata())["messaging_outbox_sent_total"][0] == "counter"
        with pytest.raises(PrometheusFailed, match="parse error"):
            await seen.query("rate(")
        with pytest.raises(PrometheusFailed, match="nothing for"):
            await seen.until("up > 1", timeout=0.2)
