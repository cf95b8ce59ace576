"""Which runs of lives the reaper ends: only those of which nothing can come any more."""

from datetime import UTC, datetime, timedelta

import pytest

from activities.ports import Owner
from activities.runs import EndForGood, LetBe, TellToStop, judge
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import FINAL, LIVING, AgentState

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SETTLED = NOW - timedelta(seconds=10)
OLD, YOUNG = NOW - timedelta(minutes=5), NOW - timedelta(seconds=1)
RUN = Owner(agent_id="ag-1", deciding=False, state="running", run_id="r1", started_at=OLD)


def row(state: AgentState, ended_at: datetime | None = None, workflow_id: str = "agent/ann/shop") -> AgentView:
    return AgentView(
        agent_id="ag-1",
        user_id="ann",
        project_id="shop",
        template="default",
        pool="default",
        runtime="memory",
        state=state,
        reason=None,
        restart_count=0,
        created_at=OLD,
        started_at=OLD,
        ready_at=OLD,
        last_activity_at=OLD,
        deadline_at=None,
        ended_at=ended_at,
        attempt=1,
        keepable=False,
        workflow_id=workflow_id,
        cluster="local",
    )


def judged(owner: Owner | None, found: AgentView | None) -> LetBe | TellToStop | EndForGood:
    return judge(owner, found, "agent/ann/shop", SETTLED)


@pytest.mark.parametrize("state", sorted(LIVING))
def test_run_of_a_living_row_is_let_be(state: AgentState) -> None:
    assert judged(RUN, row(state)) == LetBe()


@pytest.mark.parametrize("state", sorted(FINAL))
def test_run_of_a_row_that_is_over_is_told_to_stop(state: AgentState) -> None:
    assert judged(RUN, row(state, ended_at=OLD)) == TellToStop(agent_id="ag-1", attempt=1)


def test_run_without_a_row_is_ended_also_when_it_is_busy() -> None:
    ended = EndForGood(agent_id="ag-1", run_id="r1")
    assert judged(RUN, None) == ended
    assert judged(RUN.model_copy(update={"deciding": True}), None) == ended


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("its start is not decided yet", {"state": "requested"}),
        ("it shows nothing of itself", {"state": None}),
        ("it is of no agent", {"agent_id": None}),
        ("it has just begun", {"started_at": YOUNG}),
        ("nobody knows since when it runs", {"started_at": None}),
        ("it knows that it is over and is just ending", {"state": "terminated"}),
    ],
)
def test_run_without_a_row_is_let_be_when(why: str, change: dict[str, object]) -> None:
    assert judged(RUN.model_copy(update=change), None) == LetBe()


def test_run_that_is_no_more_is_let_be() -> None:
    assert judged(None, None) == LetBe()


def test_run_of_a_row_that_is_over_is_let_be_while_it_may_just_notice() -> None:
    assert judged(RUN, row(AgentState.TERMINATED, ended_at=YOUNG)) == LetBe()
    assert judged(RUN.model_copy(update={"deciding": True}), row(AgentState.TERMINATED, ended_at=OLD)) == LetBe()


def test_run_whose_agent_is_of_another_workflow_is_let_be() -> None:
    assert judged(RUN, row(AgentState.TERMINATED, ended_at=OLD, workflow_id="agent/bob/shop")) == LetBe()
