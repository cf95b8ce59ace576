"""What an administrator changes of an agent that runs: its size, kept for its later attempts, and its machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.db.repositories import agents
from core.domain.events import Event
from core.domain.lifecycle import AgentState
from core.domain.orders import MigrateOrder, OrderAnswer, ResizeOrder, Verdict
from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.timings import Timings
from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.base import Resized
from core.settings import Memory
from tests.fixtures.locks import until_locked_out
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_giving_up import Deaf

LARGE = Size(cpu=2, memory_mib=2048)
LONG = {"grace_seconds": 600}


async def resize(stage: Stage, agent_id: str, size: Size = LARGE) -> tuple[Verdict, str]:
    answer = await stage.lives.resize(await stage.agent(agent_id), size)
    return answer.verdict, answer.detail


async def migrate(stage: Stage, agent_id: str) -> tuple[Verdict, str]:
    answer = await stage.lives.migrate(await stage.agent(agent_id))
    return answer.verdict, answer.detail


async def size_now(stage: Stage, agent_id: str) -> Size:
    """What the runtime says that the attempt has."""
    attempt = (await stage.agent(agent_id)).attempt
    return stage.runtime._agents[agent_id, attempt].size


async def node_of(stage: Stage, agent_id: str) -> str:
    return (await stage.runtime.observe(agent_id, (await stage.agent(agent_id)).attempt)).node


async def resizes(stage: Stage, agent_id: str) -> list[Event]:
    return [event for event in await stage.events(agent_id) if event.kind == "agent.resized"]


async def again(stage: Stage, agent_id: str, attempt: int) -> None:
    async def runs() -> bool:
        agent = await stage.agent(agent_id)
        return (agent.state, agent.attempt) == (AgentState.RUNNING, attempt)

    await until(runs, f"attempt {attempt} to run")


async def unanswered_resize(stage: Stage, agent_id: str) -> asyncio.Task[tuple[Verdict, str]]:
    """An order that is under way, and whose runtime does not answer."""
    asked = asyncio.Event()

    async def away(*_: Any) -> Resized:
        asked.set()
        raise RuntimeRetryable("no cluster answers")

    stage.runtime.resize = away  # type: ignore[method-assign, assignment]
    ordering = asyncio.create_task(resize(stage, agent_id))
    await asyncio.wait_for(asked.wait(), 10)
    return ordering


# ---- size ----------------------------------------------------------------------------------------------------------


async def test_resized_agent_goes_on_and_its_log_says_what_was_and_is(stage: Stage) -> None:
    agent_id = await stage.started()
    assert await resize(stage, agent_id) == (Verdict.DONE, "")
    assert await size_now(stage, agent_id) == LARGE
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.attempt, agent.restart_count) == (AgentState.RUNNING, 1, 0)
    assert await resize(stage, agent_id, Size(cpu=1.5, memory_mib=1536)) == (Verdict.DONE, "")
    assert [(event.detail["before"], event.detail["after"]) for event in await resizes(stage, agent_id)] == [
        ({"cpu": 1.0, "memoryMib": 1024}, {"cpu": 2.0, "memoryMib": 2048}),
        ({"cpu": 2.0, "memoryMib": 2048}, {"cpu": 1.5, "memoryMib": 1536}),
    ]


async def test_same_size_once_more_is_no_news(stage: Stage) -> None:
    agent_id = await stage.started()
    for _ in range(3):
        assert await resize(stage, agent_id) == (Verdict.DONE, "")
    assert len(await resizes(stage, agent_id)) == 1


async def test_later_attempts_of_a_life_have_its_size_and_the_next_life_its_templates(stage: Stage) -> None:
    agent_id = await stage.started()
    await resize(stage, agent_id)
    await stage.fail(agent_id)
    await again(stage, agent_id, 2)
    assert await size_now(stage, agent_id) == LARGE
    await stage.lives.restart(await stage.agent(agent_id))
    await again(stage, agent_id, 3)
    assert await size_now(stage, agent_id) == LARGE
    await stage.stop(agent_id)
    await stage.until_closed()
    assert await size_now(stage, await stage.started()) == Size(cpu=1, memory_mib=1024)


async def test_resize_is_kept_when_a_run_is_handed_on(set_stage: SetStage) -> None:
    stage = await set_stage(history_limit=30)
    agent_id = await stage.started()
    first = (await stage.workflow().describe()).run_id
    sizes = [Size(cpu=1, memory_mib=1024 + more) for more in range(1, 9)]
    for size in sizes:
        assert (await resize(stage, agent_id, size))[0] is Verdict.DONE
    assert (await stage.workflow().describe()).run_id != first
    assert len(await resizes(stage, agent_id)) == len(sizes)
    await stage.fail(agent_id)
    await again(stage, agent_id, 2)
    assert await size_now(stage, agent_id) == sizes[-1]


async def test_refused_size_changes_nothing_and_says_why(stage: Stage) -> None:
    agent_id = await stage.started()
    beyond = await resize(stage, agent_id, Size(cpu=5000, memory_mib=1024))
    assert beyond == (Verdict.TOO_LARGE, "a simulated machine has 1024 cores, 1048576 MiB")

    async def refuses(*_: Any) -> Resized:
        raise RuntimePermanent("it uses 900 MiB right now")

    stage.runtime.resize = refuses  # type: ignore[method-assign, assignment]
    assert await resize(stage, agent_id) == (Verdict.REFUSED, "it uses 900 MiB right now")
    assert await resizes(stage, agent_id) == []
    await stage.fail(agent_id)
    await again(stage, agent_id, 2)
    assert await size_now(stage, agent_id) == Size(cpu=1, memory_mib=1024)


async def test_size_that_its_machine_puts_off_is_told_as_such(stage: Stage) -> None:
    agent_id = await stage.started()

    async def later(*_: Any) -> Resized:
        return Resized(before=LARGE, waits_for="its machine puts it off: it uses too much")

    stage.runtime.resize = later  # type: ignore[method-assign, assignment]
    assert await resize(stage, agent_id) == (Verdict.PENDING, "its machine puts it off: it uses too much")
    (event,) = await resizes(stage, agent_id)
    assert (event.reason, event.detail["detail"]) == ("deferred", "its machine puts it off: it uses too much")


async def test_order_that_a_worker_took_is_carried_out_by_the_next_one(stage: Stage) -> None:
    agent_id, asked, deaf = await stage.started(), asyncio.Event(), True
    true_resize = stage.runtime.resize

    async def away_at_first(*order: Any) -> Resized:
        asked.set()
        if deaf:
            raise RuntimeRetryable("no cluster answers")
        return await true_resize(*order)

    stage.runtime.resize = away_at_first  # type: ignore[method-assign, assignment]
    ordering = asyncio.create_task(resize(stage, agent_id))
    await asyncio.wait_for(asked.wait(), 10)
    await stage.worker_down()
    deaf = False
    await stage.worker_up()

    async def told() -> bool:
        return len(await resizes(stage, agent_id)) == 1

    await until(told, "the order to be carried out")
    assert await size_now(stage, agent_id) == LARGE
    assert (await ordering)[0] in {Verdict.DONE, Verdict.PENDING}
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_stop_does_not_wait_for_a_resize_that_gets_no_answer(stage: Stage) -> None:
    agent_id = await stage.started()
    ordering = await unanswered_resize(stage, agent_id)
    await stage.stop(agent_id)
    await stage.nothing_left()
    assert (await ordering)[0] is Verdict.WRONG_STATE


async def test_full_run_hears_a_stop_while_an_order_gets_no_answer(set_stage: SetStage) -> None:
    stage = await set_stage(history_limit=80)
    agent_id = await stage.started()
    ordering = await unanswered_resize(stage, agent_id)
    agent = await stage.agent(agent_id)
    for _ in range(40):
        await stage.lives.ready(agent_id, 1, agent.workflow_id)
    assert (await stage.workflow().describe()).history_length > 80
    await stage.stop(agent_id)
    await stage.nothing_left()
    assert (await ordering)[0] is Verdict.WRONG_STATE


@pytest.mark.parametrize("order", [ResizeOrder(agent_id="ag-other", size=LARGE), MigrateOrder(agent_id="ag-other")])
async def test_order_about_another_life_does_not_reach_this_one(
    stage: Stage, order: ResizeOrder | MigrateOrder
) -> None:
    agent_id = await stage.started()
    name = "resize" if isinstance(order, ResizeOrder) else "migrate"
    answer = await stage.workflow().execute_update(name, order)
    assert answer["verdict"] == "wrong_state"
    assert await stage.kinds(agent_id) == ["requested", "queued", "admitted", "starting", "ready"]


async def test_agent_that_ends_or_is_over_is_not_changed(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    await stage.stop(agent_id, "maintenance")
    await stage.until(agent_id, AgentState.DRAINING)
    assert (await resize(stage, agent_id))[0] is Verdict.WRONG_STATE
    assert (await migrate(stage, agent_id))[0] is Verdict.WRONG_STATE
    await stage.stop(agent_id)
    await stage.until_closed()
    assert (await resize(stage, agent_id))[0] is Verdict.WRONG_STATE
    assert (await migrate(stage, agent_id))[0] is Verdict.WRONG_STATE


# ---- machine -------------------------------------------------------------------------------------------------------


async def test_moved_agent_is_warned_then_begun_elsewhere_as_itself_with_its_size(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await resize(stage, agent_id)
    before = await node_of(stage, agent_id)
    assert await migrate(stage, agent_id) == (Verdict.DONE, "")
    warned = await stage.agent(agent_id)
    assert (warned.state, warned.reason, warned.keepable) == (AgentState.RUNNING, "migration", False)
    assert warned.deadline_at is not None
    await stage.forward(110)
    assert (await stage.agent(agent_id)).attempt == 1
    await stage.forward(15)
    await again(stage, agent_id, 2)
    agent = await stage.agent(agent_id)
    assert (agent.reason, agent.deadline_at, agent.restart_count) == (None, None, 0)
    assert await node_of(stage, agent_id) != before
    assert await size_now(stage, agent_id) == LARGE
    assert (await stage.kinds(agent_id))[-4:] == ["warning", "restarting", "starting", "ready"]
    restarting = (await stage.events(agent_id))[-3]
    assert (restarting.reason, restarting.detail["detail"]) == (
        "migration",
        f"it moves from {before} to another machine",
    )


async def test_agent_without_another_machine_is_not_touched(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    stage.runtime._settings = Memory(start_seconds=0.02, stop_seconds=0.02, nodes=1)
    agent_id = await stage.started()
    verdict, why = await migrate(stage, agent_id)
    assert (verdict, why) == (Verdict.REFUSED, "there is no simulated machine but node-1")
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.reason, agent.deadline_at) == (AgentState.RUNNING, None, None)


async def test_second_order_to_move_finds_the_first_one(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    answers = await asyncio.gather(*(migrate(stage, agent_id) for _ in range(3)))
    assert answers == [(Verdict.DONE, "")] * 3
    assert (await stage.kinds(agent_id)).count("warning") == 1


async def test_move_is_kept_when_its_run_is_handed_on(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600}, history_limit=30)
    agent_id = await stage.started()
    first, before = (await stage.workflow().describe()).run_id, await node_of(stage, agent_id)
    await migrate(stage, agent_id)

    async def another() -> bool:
        await stage.fail(agent_id, attempt=7)
        return (await stage.workflow().describe()).run_id != first

    await until(another, "the run to be handed on")
    await stage.forward(601)
    await again(stage, agent_id, 2)
    assert await node_of(stage, agent_id) != before


async def test_what_breaks_before_it_moves_is_begun_elsewhere_at_once(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    before = await node_of(stage, agent_id)
    await migrate(stage, agent_id)
    await stage.fail(agent_id)
    await again(stage, agent_id, 2)
    assert await node_of(stage, agent_id) != before
    # And that was it: nothing of the move is left to be done.
    await stage.forward(601)
    assert (await stage.agent(agent_id)).attempt == 2


async def told_to_move_on_its_way_out(stage: Stage, out: Callable[[str], Awaitable[None]]) -> tuple[str, OrderAnswer]:
    """Id of an agent whose move is noted while what `out` leads to is being written, and what was answered."""
    agent_id = await stage.started()
    async with stage.db.transaction() as between:
        async with stage.db.transaction() as first:
            await agents.lock(first, agent_id)
            ordering = asyncio.create_task(stage.lives.migrate(await stage.agent(agent_id)))
            await until_locked_out(stage, 1, "the warning to wait for the agent's row")
            locking = asyncio.create_task(agents.lock(between, agent_id))
            await until_locked_out(stage, 2, "the test to wait behind it")
            await out(agent_id)
            await until_locked_out(stage, 3, "what takes it out of running to wait behind the test")
        await locking
        answer = await ordering
    return agent_id, answer


async def test_move_that_is_noted_while_a_restart_is_written_is_not_promised(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id, answer = await told_to_move_on_its_way_out(stage, stage.fail)
    assert (answer.verdict, answer.state) == (Verdict.WRONG_STATE, AgentState.RESTARTING)
    await again(stage, agent_id, 2)
    agent = await stage.agent(agent_id)
    assert (agent.reason, agent.deadline_at) == (None, None)
    # The next order finds it where it is.
    assert (await migrate(stage, agent_id))[0] is Verdict.DONE


async def test_move_that_is_noted_while_its_agent_is_told_to_go_is_not_promised_though_it_is_kept(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(LONG)
    agent_id, answer = await told_to_move_on_its_way_out(stage, lambda agent_id: stage.stop(agent_id, "inactivity"))
    assert (answer.verdict, answer.state) == (Verdict.WRONG_STATE, AgentState.DRAINING)
    assert await stage.lives.keep(await stage.agent(agent_id))
    assert (await migrate(stage, agent_id))[0] is Verdict.DONE


async def test_move_of_one_that_is_being_removed_for_good_is_not_promised(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id, deaf = await stage.started(), Deaf(stage)
    await stage.fail(agent_id, FailureKind.IMAGE_PULL)
    await deaf.was_asked()
    answer = await stage.lives.migrate(await stage.agent(agent_id))
    assert (answer.verdict, answer.state) == (Verdict.WRONG_STATE, AgentState.FAILED)
    deaf.hears()
    await stage.until(agent_id, AgentState.FAILED)


async def test_stop_before_it_moves_is_a_stop(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    await migrate(stage, agent_id)
    await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, AgentState.DRAINING)
    assert await stage.lives.keep(await stage.agent(agent_id))
    await stage.forward(601)
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.attempt) == (AgentState.RUNNING, 1)
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_agent_whose_other_machine_is_lost_comes_back_where_there_is_one(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 0, "ready_deadline_seconds": 2})
    agent_id = await stage.started()
    before = await node_of(stage, agent_id)
    create = stage.runtime.create

    async def only_there(spec: Any) -> Any:
        if spec.away_from == before:
            raise RuntimeRetryable("no machine has enough memory free for it")
        return await create(spec)

    stage.runtime.create = only_there  # type: ignore[method-assign]
    await migrate(stage, agent_id)
    await again(stage, agent_id, 3)
    assert (await stage.agent(agent_id)).restart_count == 1
