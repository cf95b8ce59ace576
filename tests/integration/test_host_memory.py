"""Simulated agents: their faults, what the next supervisor knows of them, and that many of them cost nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.domain.recovery import FailureKind
from core.domain.templates import Simulation, Template
from core.errors import RuntimeRetryable
from core.runtime.base import AgentSpec, Phase
from core.runtime.ledger import Entry, Ledger
from core.runtime.memory import MemoryRuntime
from core.runtime.registry import open_runtime
from core.settings import Memory, Settings
from tests.contracts.runtime_suite import new_spec, watching
from tests.contracts.runtime_suite_host import HostProcess


@pytest.fixture
async def runtime() -> AsyncIterator[MemoryRuntime]:
    made = MemoryRuntime(Memory(start_seconds=0.02, stop_seconds=0.02))
    yield made
    await made.close()


def simulated(**plan: object) -> AgentSpec:
    return new_spec(template=Template(simulation=Simulation.model_validate(plan)))


async def test_creation_fails_as_often_as_told_then_works(runtime: MemoryRuntime) -> None:
    spec = simulated(fail_create=2)
    for _ in range(2):
        with pytest.raises(RuntimeRetryable):
            await runtime.create(spec)
        assert (await runtime.observe(spec.agent_id, 1)).phase is Phase.GONE
    await runtime.create(spec)


async def test_agent_told_never_to_be_ready_is_not(runtime: MemoryRuntime) -> None:
    stuck, other = simulated(never_ready=True), simulated(start_seconds=0.05)
    async with watching(runtime) as watch:
        await runtime.create(stuck)
        await runtime.create(other)
        await watch.sees(other.agent_id, Phase.READY)
    assert (await runtime.observe(stuck.agent_id, 1)).phase is Phase.STARTING


async def test_agents_become_ready_and_exit_at_their_own_moments(runtime: MemoryRuntime) -> None:
    late = simulated(start_seconds=0.2)
    early = simulated(start_seconds=0.01, exit_after_seconds=0.1, exit_code=78)
    async with watching(runtime) as watch:
        await runtime.create(late)
        await runtime.create(early)
        await watch.sees(late.agent_id, Phase.READY)
        changes = [(seen.agent_id, seen.phase) for seen in watch.seen if seen.phase is not Phase.STARTING]
    assert changes == [
        (early.agent_id, Phase.READY),
        (early.agent_id, Phase.EXITED),
        (late.agent_id, Phase.READY),
    ]
    assert (await runtime.observe(early.agent_id, 1)).failure is FailureKind.CANNOT_START


async def test_capacity_is_what_the_settings_say() -> None:
    runtime = MemoryRuntime(Memory(capacity=1))
    spec = new_spec()
    await runtime.create(spec)
    assert (await runtime.capacity()).fits == 0
    await runtime.create(new_spec())
    assert (await runtime.capacity()).fits == 0
    await runtime.close()


async def test_ten_thousand_agents_at_rest_cost_nothing(runtime: MemoryRuntime) -> None:
    specs = [new_spec(template=Template()) for _ in range(10_000)]
    async with watching(runtime) as watch:
        for spec in specs:
            await runtime.create(spec)
        await watch.sees(specs[-1].agent_id, Phase.READY)
    assert runtime._timers == []
    assert runtime._alarm is None
    assert len(asyncio.all_tasks()) < 20
    assert (await runtime.capacity()).agents == 10_000


async def test_agents_of_a_killed_host_are_reported_as_lost_until_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    runtime = open_runtime("memory", Settings(data_dir=folder))
    lost, left = new_spec(), new_spec()
    async with HostProcess(folder) as host:
        await host.ready()
        for spec in (lost, left):
            await runtime.create(spec)
        await runtime.delete(left.agent_id, 1)
        await host.kill()
        host.start()
        await host.ready()
        (seen,) = await runtime.list()
        assert (seen.agent_id, seen.user_id, seen.project_id) == (lost.agent_id, lost.user_id, lost.project_id)
        assert (seen.phase, seen.failure) == (Phase.EXITED, FailureKind.HOST_LOST)
        await runtime.create(lost.model_copy(update={"attempt": 2}))
        await runtime.delete(lost.agent_id, 1)
        assert [seen.attempt for seen in await runtime.list()] == [2]
    await runtime.close()


def test_ledger_stays_small_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    for number in range(12_000):
        ledger.came(Entry(f"ag-{number}", 1, "user", "project", "hash", "2026-01-01T00:00:00+00:00"))
        ledger.went(f"ag-{number}", 1)
    ledger.came(Entry("ag-left", 2, "user", "project", "hash", "2026-01-01T00:00:00+00:00"))
    ledger.close()
    assert path.stat().st_size < 1_500_000
    with path.open("a") as file:
        file.write('["ag-torn", 1, "us')
    again = Ledger(path)
    assert list(again.known) == [("ag-left", 2)]
    again.close()
