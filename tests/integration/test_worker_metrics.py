"""The worker's numbers as Prometheus gets them: Temporal's own and ours, at one address."""

from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from temporalio.runtime import Runtime

from activities.ports import Unmetered
from core.dev.ports import Ports
from core.settings import Worker
from temporal.metrics import metered
from tests.fixtures.stack import local_stack

FIGURES = dict[tuple[str, ...], float]


async def scraped(port: int) -> FIGURES:
    """Every number by its name and labels."""
    async with httpx2.AsyncClient(timeout=10) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.timeout(300)
async def test_one_address_tells_of_lives_and_of_temporal(tmp_path: Path) -> None:
    port = Ports().pick(0)
    async with local_stack(tmp_path / "data", WORKER__METRICS_PORT=str(port)) as stack:
        ann = await stack.user("ann", "shop")
        agent_id = await ann.start("shop")
        await ann.until(agent_id, "running")
        await ann.stop(agent_id, 0)
        await ann.until(agent_id, "terminated")
        await stack.sound()
        told = await scraped(port)
    assert told["berth_transitions_total", "reason=none", "to=running"] == 1
    assert told["berth_transitions_total", "reason=user_requested", "to=terminated"] == 1
    assert told["berth_state_seconds_count", "state=running"] == 1
    assert told["berth_state_seconds_sum", "state=starting"] > 0
    assert told["berth_failures_total", "kind=crash"] == 0
    assert told["berth_runtime_errors_total", "code=runtime_retryable"] == 0
    names = {name for name, *_ in told}
    assert {"temporal_workflow_task_schedule_to_start_latency_seconds_bucket", "temporal_sticky_cache_size"} <= names


def test_nothing_listens_unless_it_is_asked_to() -> None:
    runtime, meter = metered(Worker())
    assert runtime is None
    assert isinstance(meter, Unmetered)


def test_port_that_is_taken_is_told_by_the_name_of_its_setting() -> None:
    port = Ports().pick(0)
    taken, _ = metered(Worker(metrics_port=port))
    assert isinstance(taken, Runtime)
    with pytest.raises(ValueError, match=r"BERTH_WORKER__METRICS_PORT.*already in use"):
        metered(Worker(metrics_port=port))


@pytest.mark.parametrize(("host", "address"), [("0.0.0.0", "0.0.0.0:9464"), ("::1", "[::1]:9464")])  # noqa: S104
def test_address_is_written_as_the_sdk_reads_it(host: str, address: str) -> None:
    assert Worker(metrics_host=host, metrics_port=9464).metrics_address() == address


def test_host_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="localhost"):
        Worker(metrics_host="localhost")
