"""Parts that are away when they are needed: nothing is decided twice and nothing is lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.contracts import Life
from activities.lives import LifeActivities
from core import launch
from core.db.engine import Db
from core.db.repositories import idempotency
from core.dev.ports import Ports
from core.dev.supervise import Supervised, running
from core.dev.temporal import Temporal
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, Verdict
from core.domain.timings import Timings
from core.errors import Unavailable
from temporal import lives
from tests.fixtures.stage import SetStage, Stage, stage_settings, until
from workflows.options import SEARCH_ATTRIBUTES

ACCOUNT = launch.Account(209_992, 209_992) if os.geteuid() == 0 else None


async def decided(stage: Stage, key: str) -> StartAnswer:
    """What stands under the key, once it does."""
    found: list[StartAnswer] = []

    async def there() -> bool:
        async with stage.db.transaction() as session:
            outcome = await idempotency.outcome_of(session, "ann", idempotency.start_scope("shop"), key)
        found[:] = [outcome] if outcome else []
        return bool(outcome)

    await until(there, "an outcome under the key")
    return found[0]


@pytest.fixture
def keyed() -> dict[str, str]:
    """A key of this test alone: the server, which it shares with others, remembers what it answered under one."""
    return {"key": f"k-{uuid4()}", "body_hash": "h"}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "ANSWER_SECONDS", 1.0)


@pytest.mark.usefixtures("hurried")
async def test_start_without_a_worker_is_decided_later_and_found_under_its_key(
    stage: Stage, keyed: dict[str, str]
) -> None:
    await stage.member("ann", "shop")
    await stage.worker_down()
    with pytest.raises(Unavailable) as silent:
        await stage.lives.start(stage.request(**keyed))
    assert silent.value.error_code == "worker_silent"
    # Asked again and again, it is still one request.
    with pytest.raises(Unavailable):
        await stage.lives.start(stage.request(**keyed))
    await stage.worker_up()
    answer = await decided(stage, keyed["key"])
    assert answer.outcome is StartOutcome.CREATED
    agent_id = answer.agent_id or ""
    await stage.until(agent_id, AgentState.RUNNING)
    again = await stage.lives.start(stage.request(**keyed))
    assert again.agent_id == agent_id
    assert len(await stage.sql("SELECT 1 FROM agents")) == 1


@pytest.mark.usefixtures("hurried")
async def test_order_that_is_accepted_and_not_answered_is_given_up_in_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own limit is for each of its calls, and the last of them has none."""

    async def accepted(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(stage.client, "execute_update_with_start_workflow", accepted)
    await stage.member("ann", "shop")
    with pytest.raises(Unavailable) as silent:
        await asyncio.wait_for(stage.lives.start(stage.request()), 5)
    assert silent.value.error_code == "worker_silent"


async def test_key_of_a_life_that_is_over_makes_no_second_one(stage: Stage, keyed: dict[str, str]) -> None:
    """A call that was long under way arrives when the agent it asked for has come and gone."""
    await stage.member("ann", "shop")
    first = await stage.lives.start(stage.request(**keyed))
    assert first.outcome is StartOutcome.CREATED
    await stage.until(first.agent_id or "", AgentState.RUNNING)
    await stage.stop(first.agent_id or "")
    await stage.until_closed()
    late = await stage.lives.start(stage.request(**keyed))
    assert late == first
    await stage.until_closed()
    # Another key is another wish; and after its life too the first key stands for the first agent.
    other = await stage.lives.start(stage.request(key=f"other-{keyed['key']}", body_hash="h"))
    assert other.outcome is StartOutcome.CREATED
    assert other.agent_id != first.agent_id
    await stage.until(other.agent_id or "", AgentState.RUNNING)
    await stage.stop(other.agent_id or "")
    await stage.until_closed()
    assert await stage.lives.start(stage.request(**keyed)) == first
    await stage.until_closed()
    assert len(await stage.sql("SELECT 1 FROM agents")) == 2


async def test_key_that_was_refused_stays_refused(set_stage: SetStage, keyed: dict[str, str]) -> None:
    stage = await set_stage()
    await stage.member("ann", "shop", "bank")
    other = await stage.started("ann", "bank")
    refused = await stage.lives.start(stage.request(**keyed))
    assert refused.outcome is StartOutcome.REJECTED
    await stage.stop(other)
    await stage.until(other, AgentState.TERMINATED)
    await stage.until_closed()
    assert await stage.lives.start(stage.request(**keyed)) == refused


@pytest.mark.parametrize("state", [AgentState.QUEUED, AgentState.STARTING, AgentState.RUNNING, AgentState.DRAINING])
async def test_life_goes_on_where_its_worker_left_it(set_stage: SetStage, state: AgentState) -> None:
    stage = await set_stage({"grace_seconds": 600, "ready_deadline_seconds": 90}, capacity=1)
    holder = await stage.started("bob") if state is AgentState.QUEUED else None
    if state is AgentState.STARTING:
        stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 0.5})
    agent_id = (await stage.start()).agent_id or ""
    if state is AgentState.DRAINING:
        await stage.until(agent_id, AgentState.RUNNING)
        await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, state)
    await stage.worker_down()
    if holder is not None:
        await stage.stop(holder)
    await stage.worker_up()
    if state is AgentState.DRAINING:
        assert await stage.lives.keep(await stage.agent(agent_id))
    agent = await stage.until(agent_id, AgentState.RUNNING)
    assert (agent.attempt, agent.restart_count) == (1, 0)
    await stage.stop(agent_id)
    await stage.nothing_left()


@pytest.fixture
def temporal(tmp_path: Path) -> Temporal:
    ports = Ports()
    attributes = dict.fromkeys((key.name for key in SEARCH_ATTRIBUTES), "Keyword")
    return Temporal(
        tmp_path / "temporal",
        ports.pick(0),
        ports.pick(0),
        ports.pick(0),
        search_attributes=attributes,
        account=ACCOUNT,
    )


async def killed_and_back(server: Supervised) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def back() -> bool:
        return server.pid not in (None, pid) and server.ready

    await until(back, "the server to be back")


@pytest.mark.usefixtures("hurried")
async def test_start_that_a_killed_server_had_taken_makes_one_agent_when_asked_again(
    temporal: Temporal, tmp_path: Path, db: Db, brisk: Timings, keyed: dict[str, str]
) -> None:
    async with running(temporal.part(), tmp_path / "log") as server:
        client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
        stage = Stage(client, db, stage_settings(brisk))
        await stage.member("ann", "shop")
        # Taken by the server, by no worker: the update lives in the server's memory alone.
        with pytest.raises(Unavailable):
            await stage.lives.start(stage.request(**keyed))
        await killed_and_back(server)
        await stage.worker_up()
        try:
            answers = await asyncio.gather(*(stage.insist(stage.request(**keyed)) for _ in range(3)))
            assert len({answer.agent_id for answer in answers}) == 1
            agent_id = answers[0].agent_id or ""
            assert (await decided(stage, keyed["key"])).agent_id == agent_id
            await stage.until(agent_id, AgentState.RUNNING)
            assert len(await stage.sql("SELECT 1 FROM agents")) == 1
            # And once more while it runs: the same agent, not restarted.
            await killed_and_back(server)
            await stage.stop(agent_id)
            await stage.until(agent_id, AgentState.TERMINATED)
            assert "restarting" not in await stage.kinds(agent_id)
        finally:
            await stage.worker_down()


async def test_lives_that_can_write_nothing_keep_nobody_else_from_starting(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(capacity=50)
    names = [f"stuck-{number}" for number in range(2 * stage.settings.database.pool_size + 1)]
    stuck = [await stage.started(name) for name in names]
    writes, tried = LifeActivities._start_over, set[str]()
    back = asyncio.Event()

    async def refused(self: LifeActivities, life: Life) -> None:
        if life.agent_id in stuck and not back.is_set():
            tried.add(life.agent_id)
            raise ConnectionError("its row is gone")
        await writes(self, life)

    monkeypatch.setattr(LifeActivities, "_start_over", refused)
    for agent_id in stuck:
        await stage.stop(agent_id)

    async def all_are() -> bool:
        return len(tried) == len(stuck)

    await until(all_are, "every one of them to be stuck")
    await stage.member("ann", "shop")
    answer = await stage.insist(stage.request())
    await stage.until(answer.agent_id or "", AgentState.RUNNING)
    back.set()
    await stage.stop(answer.agent_id or "")
    await stage.nothing_left()


BRIEF = {"grace_seconds": 15}


@asynccontextmanager
async def nothing_written(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """What is ordered within finds no database, for longer than an agent's grace takes."""
    tried = asyncio.Event()

    def away(_: Db) -> None:
        tried.set()
        raise ConnectionError("no database answers")

    with monkeypatch.context() as outage:
        outage.setattr(Db, "single", away)
        yield
        await asyncio.wait_for(tried.wait(), 10)
        await stage.forward(BRIEF["grace_seconds"] + 5)


async def deadlines(stage: Stage, agent_id: str) -> list[datetime]:
    """Of its warnings, in their order."""
    told = [event for event in await stage.events(agent_id) if event.kind == "agent.warning"]
    return [datetime.fromisoformat(event.detail["deadlineAt"]) for event in told]


async def moved_and_stopped_in_an_outage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whoever is warned late has the whole grace from then on, before a move and before an end."""
    agent_id = await stage.started()
    for reason in ("migration", "maintenance"):
        before = len(await deadlines(stage, agent_id))
        async with nothing_written(stage, monkeypatch):
            agent = await stage.agent(agent_id)
            if reason == "migration":
                moving = asyncio.create_task(stage.lives.migrate(agent))
            else:
                await stage.stop(agent_id, reason)

        async def warned_anew(times: int = before + 2) -> bool:
            return len(await deadlines(stage, agent_id)) == times

        await until(warned_anew, f"a second warning of {reason}")
        if reason == "migration":
            assert (await moving).verdict is Verdict.DONE
        in_vain, holds = (await deadlines(stage, agent_id))[-2:]
        assert holds - in_vain > timedelta(seconds=BRIEF["grace_seconds"])
        agent = await stage.agent(agent_id)
        assert (agent.reason, agent.deadline_at, agent.attempt) == (reason, holds, 1)
    return agent_id


async def test_grace_begins_when_its_warning_could_be_written(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(BRIEF)
    agent_id = await moved_and_stopped_in_an_outage(stage, monkeypatch)
    assert (await stage.agent(agent_id)).state is AgentState.DRAINING
    await stage.forward(BRIEF["grace_seconds"] + 1)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
