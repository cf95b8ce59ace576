"""Histories recorded earlier, replayed by the workflows of today."""

import json
import re
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from temporal.interceptors import Sieve
from tests.replay.histories import HISTORIES
from workflows.agent import AgentWorkflow
from workflows.life import AgentInput
from workflows.notices import Notices
from workflows.pool_queue import PoolQueue
from workflows.pressure import PressureWatch
from workflows.scheduled_start import ScheduledStart

RECORDED = sorted(HISTORIES.glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    recorded = json.loads(path.read_text())
    return WorkflowHistory.from_json(recorded.pop("workflowId"), recorded)


@workflow.defn(name="AgentWorkflow", sandboxed=False)
class Hesitant(AgentWorkflow):
    """What a careless change would be: one more command before all others."""

    @workflow.run
    async def run(self, start: AgentInput) -> None:
        await workflow.sleep(1)
        await super().run(start)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_recorded_run_takes_the_same_way_today(path: Path) -> None:
    known = [AgentWorkflow, Notices, PoolQueue, PressureWatch, ScheduledStart]
    replayer = Replayer(workflows=known, data_converter=pydantic_data_converter, interceptors=[Sieve()])
    await replayer.replay_workflow(history(path))


@pytest.mark.parametrize("name", ["stopped", "handed_over_after"])
async def test_change_that_would_break_running_lives_is_caught(name: str) -> None:
    replayer = Replayer(workflows=[Hesitant], data_converter=pydantic_data_converter)
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history(HISTORIES / f"{name}.json"))


def test_every_flow_is_recorded() -> None:
    kept = re.findall(r'await keep\(stage, "(\w+)"', (HISTORIES.parent / "flows.py").read_text())
    assert sorted(kept) == [path.stem for path in RECORDED]


def test_histories_tell_nothing_of_the_machine_they_come_from() -> None:
    for path in RECORDED:
        assert not re.search(r'"identity"|\d+@', path.read_text()), path.name
