"""What an operator mistypes at a workflow: with the real program, in words that no handler takes."""

import itertools

import pytest
from temporalio.client import WorkflowExecutionStatus

from core.domain.lifecycle import AgentState
from tests.fixtures.receivers import Backend
from tests.fixtures.stage import SetStage, Stage, until

# One too many, bytes, and a value that cannot be. What does not parse otherwise is in `test_orders`.
NONSENSE: list[tuple[str, ...]] = [
    ("--input", "{}", "--input", "{}"),
    ("--input", "rubbish", "--input-meta", "encoding=binary/plain"),
    ("--input", '{"agent_id": 17, "attempt": "first", "grace_seconds": 1e999}'),
]
SIGNALS = ("stop", "abandon", "restart", "admitted", "ready", "failed", "nosuchsignal")
UPDATES = ("keep", "resize", "migrate", "start", "nosuchupdate")

pytestmark = pytest.mark.filterwarnings("ignore")


async def _signal(stage: Stage, workflow_id: str, name: str, *words: str) -> None:
    await stage.temporal("workflow", "signal", "-w", workflow_id, "--name", name, *words)


async def _keep(stage: Stage) -> str:
    return await stage.temporal("workflow", "update", "execute", "-w", stage.workflow().id, "--name", "keep")


async def _refused(stage: Stage, name: str, *words: str) -> None:
    with pytest.raises(AssertionError, match=r"(?i)update|decod|does not take|not found|another"):
        await stage.temporal("workflow", "update", "execute", "-w", stage.workflow().id, "--name", name, *words)


async def _unharmed(stage: Stage, agent_id: str) -> None:
    """It takes notice of everything that was said, is as it was, and does what it is told next."""
    assert (await stage.lives.start(stage.request())).agent_id == agent_id
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.attempt) == (AgentState.RUNNING, 1)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()


async def test_mistyped_signals_harm_no_life(stage: Stage) -> None:
    agent_id = await stage.started()
    for name, words in itertools.product(SIGNALS, NONSENSE):
        await _signal(stage, stage.workflow().id, name, *words)
    await _unharmed(stage, agent_id)


async def test_signal_that_is_none_of_ours_is_dropped_with_a_line_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    agent_id = await stage.started()
    await _signal(stage, stage.workflow().id, "stopp")
    await _unharmed(stage, agent_id)
    dropped = [line for line in caplog.records if "signal.dropped" in line.getMessage()]
    assert [vars(line)["signal"] for line in dropped] == ["stopp"]
    assert dropped[0].getMessage().startswith("signal.dropped: stopp ")


async def test_signal_with_an_unknown_field_is_dropped_in_one_line_that_says_why(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    agent_id = await stage.started()
    await _signal(stage, stage.workflow().id, "stop", "--input", '{"grace": 0}')
    await _unharmed(stage, agent_id)
    (line,) = [line for line in caplog.records if "signal.dropped" in line.getMessage()]
    assert line.exc_info is None
    assert "\n" not in line.getMessage()
    assert line.getMessage().startswith("signal.dropped: stop on workflow AgentWorkflow")
    assert "grace Extra inputs are not permitted" in line.getMessage()


async def test_mistyped_updates_are_refused_and_harm_no_life(stage: Stage) -> None:
    agent_id = await stage.started()
    for name, words in itertools.product(UPDATES, NONSENSE):
        await _refused(stage, name, *words)
    for name in ("resize", "start"):
        await _refused(stage, name)
    await _refused(stage, "resize", "--input", '{"size": {"cpu": 1, "memory_mib": 99999999999}}')
    stranger = '{"agent_id": "ag-x", "user_id": "bob", "project_id": "shop"}'
    await _refused(stage, "start", "--input", stranger)
    await _unharmed(stage, agent_id)


async def test_orders_without_words_do_what_the_guide_says(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    agent_id = await stage.started()
    workflow_id = stage.workflow().id
    for name in ("admitted", "ready", "failed"):
        await _signal(stage, workflow_id, name)
    assert "kept:true state:running" in await _keep(stage)
    await _signal(stage, workflow_id, "stop")
    await stage.until(agent_id, AgentState.DRAINING)
    await _signal(stage, workflow_id, "restart")
    assert "kept:false state:draining" in await _keep(stage), "an operator's stop is not its user's to take back"
    await _signal(stage, workflow_id, "abandon")
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()


async def test_queue_and_notices_do_not_mind_words_either(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1, webhook=backend.settings())
    first = await stage.started("bob")
    second = await stage.queued()
    for words in NONSENSE:
        for name in ("released", "enqueued", "capacity_changed"):
            await _signal(stage, "pool/default", name, *words)
        await _signal(stage, "notices/webhook", "written", *words)
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.nothing_left()

    async def heard() -> bool:
        return backend.kinds.count("agent.terminated") == 2

    await until(heard, "the backend to hear of both ends")
    for workflow_id in ("pool/default", "notices/webhook"):
        run = await stage.client.get_workflow_handle(workflow_id).describe()
        assert run.status is WorkflowExecutionStatus.RUNNING
        assert run.raw_description.pending_workflow_task.attempt <= 1
