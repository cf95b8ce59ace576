"""Flows of what came to lives later, whose histories are checked in as those of `flows.py` are."""

from tests.fixtures.stage import SetStage
from tests.replay.keeping import keep
from tests.workflows.test_draining import LONG, told_at_once
from tests.workflows.test_idleness import waited_then_ran


async def test_told_twice_at_once(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    await told_at_once(stage)
    await stage.until_closed()
    await keep(stage, "told_twice_at_once")


async def test_waited_then_lived_its_longest(set_stage: SetStage) -> None:
    stage, _ = await waited_then_ran(set_stage)
    await stage.forward(3601)
    await stage.until_closed()
    await keep(stage, "waited_then_lived_its_longest")
