"""What a life takes along into a new run, as the release before may have to read it."""

from datetime import UTC, datetime

from activities.contracts import Life, Usage
from core.domain.lifecycle import AgentState
from core.domain.timings import Timings
from workflows.life import Course

# The fields that the first release knows.
FIRST = {
    "life", "timings", "state", "born_at", "waits_for", "begun", "restarts", "running_since", "pause_seconds",
    "save_first", "drain", "move", "held_away", "inbox",
}  # fmt: skip


def course() -> Course:
    life = Life(agent_id="a", attempt=1, user_id="ann", project_id="shop", pool="default", template="default",
                runtime="memory")  # fmt: skip
    return Course(life=life, timings=Timings(), state=AgentState.RUNNING, born_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_life_of_which_there_is_no_news_can_be_read_by_the_release_before() -> None:
    assert set(course().model_dump()) == FIRST


def test_what_is_said_of_a_life_is_still_known_in_its_next_run() -> None:
    before = course()
    before.given_up, before.usage, before.counted = True, Usage(cpu_seconds=2.5), 1
    before.inbox.granted = True
    assert Course.model_validate_json(before.model_dump_json()) == before
