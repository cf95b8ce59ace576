"""What a life asks in between: a runtime that hangs is not waited for over and over."""

import asyncio

from activities.lives import life_of
from activities.looking import LookActivities
from core.domain.lifecycle import AgentState
from core.domain.templates import Simulation, Template
from core.runtime.base import Observation
from core.runtime.memory import MemoryRuntime
from core.settings import Memory
from tests.fixtures.stage import SetStage


class Hangs(MemoryRuntime):
    """Answers nobody."""

    def __init__(self) -> None:
        super().__init__(Memory())
        self.asked = 0

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError


async def test_runtime_that_hangs_is_asked_once_for_all_lives_that_look(set_stage: SetStage) -> None:
    """A look takes one of few places, which lives of other runtimes need too."""
    stage = await set_stage(templates={"slow": Template(simulation=Simulation(never_ready=True))})
    answer = await stage.start(template="slow")
    assert answer.agent_id is not None
    life = life_of(await stage.until(answer.agent_id, AgentState.STARTING))
    runtime = Hangs()
    looking = LookActivities(stage.db, stage.settings, {"memory": runtime})
    for _ in range(3):
        seen = await looking.look(life)
        # It only adds words: what its row says is known in any case.
        assert (seen.state, seen.ready, seen.trouble) == (AgentState.STARTING, False, "")
    assert runtime.asked == 1
