"""Histories recorded earlier, replayed by the workflows of today."""

import re
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.replay.check import broken, history
from tests.replay.histories import HISTORIES
from tests.replay.seals import recorded, unsound
from workflows.agent import AgentWorkflow
from workflows.life import AgentInput


@workflow.defn(name="AgentWorkflow", sandboxed=False)
class Hesitant(AgentWorkflow):
    """What a careless change would be: one more command before all others."""

    @workflow.run
    async def run(self, start: AgentInput) -> None:
        await workflow.sleep(1)
        await super().run(start)


@pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)
async def test_recorded_run_takes_the_same_way_today(path: Path) -> None:
    assert await broken([path]) == {}


@pytest.mark.parametrize("name", ["stopped", "handed_over_after"])
async def test_change_that_would_break_running_lives_is_caught(name: str) -> None:
    replayer = Replayer(workflows=[Hesitant], data_converter=pydantic_data_converter)
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history(HISTORIES / f"{name}.json"))


def test_every_flow_is_recorded_and_no_record_was_changed() -> None:
    flows = "".join(path.read_text() for path in HISTORIES.parent.glob("*flows.py"))
    kept = re.findall(r'await keep\(\s*stage,\s*"(\w+)"', flows)
    assert sorted(kept) == [path.stem for path in recorded()]
    assert unsound() == []


def test_histories_tell_nothing_of_the_machine_they_come_from() -> None:
    for path in recorded():
        assert not re.search(r'"identity"|\d+@', path.read_text()), path.name
