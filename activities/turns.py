"""The turns that lives take, as numbers and in the log: transitions, time in each state, failures, restarts."""

from collections.abc import Sequence
from datetime import datetime

import structlog

from activities.contracts import Life
from activities.ports import Meter
from core.db.repositories.moves import Moved
from core.db.repositories.queue import Given
from core.domain.admission import QueueReason
from core.domain.lifecycle import AgentState, EndReason
from core.domain.recovery import FailureKind

log = structlog.get_logger()
TRANSITIONS = "berth_transitions_total"
STATE_SECONDS = "berth_state_seconds"
FAILURES = "berth_failures_total"
RESTARTS = "berth_restarts_total"
NONE, OTHER = "none", "other"
_FAILURES = frozenset(kind.value for kind in FailureKind)
_REASONS = frozenset(reason.value for words in (EndReason, QueueReason) for reason in words) | _FAILURES


class Turns:
    """Told of every write after its commit. Labels are of closed sets: an operator may give any word as a reason."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        # Known from the start: a counter that appears with its first failure shows no increase to whoever scrapes it.
        for kind in sorted(_FAILURES):
            meter.count(FAILURES, 0, kind=kind)
            meter.count(RESTARTS, 0, kind=kind)

    def came(self, life: Life, state: AgentState, reason: str | None) -> None:
        """A new life began, in `state`."""
        self._count(state, reason)
        log.info("agent.came", agent_id=life.agent_id, attempt=life.attempt, state=state.value, reason=reason)

    def granted(self, given: Sequence[Given]) -> None:
        """They were given a slot, those also who had one before."""
        for each in given:
            state = AgentState.STARTING
            self._count(state, None)
            log.info("agent.moved", agent_id=each.agent_id, attempt=each.attempt, state=state.value, reason=None)
            self._meter.observe(STATE_SECONDS, each.waited, state=AgentState.QUEUED.value)

    def took(self, life: Life, moved: Moved, at: datetime, reason: str | None = None) -> None:
        """A write of a state, which may have found it written already."""
        if not moved.applied or moved.left is moved.state:
            return
        self._count(moved.state, reason)
        log.info("agent.moved", agent_id=life.agent_id, attempt=moved.attempt, state=moved.state.value, reason=reason)
        if moved.left is not None and moved.since is not None:
            # A clock that was put back since makes nobody stay for less than no time.
            self._meter.observe(STATE_SECONDS, max((at - moved.since).total_seconds(), 0.0), state=moved.left.value)
        if moved.state is AgentState.FAILED:
            self._meter.count(FAILURES, kind=_of(_FAILURES, reason))

    def restarted(self, life: Life, moved: Moved, at: datetime, kind: str, *, failed: bool) -> None:
        """An attempt is to be followed by another; `failed` False: somebody ordered it."""
        self.took(life, moved, at, kind)
        if moved.applied:
            self._meter.count(RESTARTS, kind=_of(_FAILURES, kind))
            if failed:
                self._meter.count(FAILURES, kind=_of(_FAILURES, kind))

    def _count(self, to: AgentState, reason: str | None) -> None:
        self._meter.count(TRANSITIONS, to=to.value, reason=_of(_REASONS, reason))


def _of(known: frozenset[str], word: str | None) -> str:
    if word is None:
        return NONE
    return word if word in known else OTHER
