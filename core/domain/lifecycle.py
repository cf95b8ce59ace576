"""States of an agent and the only edges between them; everything that writes a state asks this table."""

from enum import StrEnum


class AgentState(StrEnum):
    REQUESTED = "requested"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    DRAINING = "draining"
    TERMINATED = "terminated"
    CANCELLED = "cancelled"
    FAILED = "failed"


S = AgentState

_EDGES: dict[AgentState, frozenset[AgentState]] = {
    S.REQUESTED: frozenset({S.QUEUED}),
    S.QUEUED: frozenset({S.STARTING, S.CANCELLED}),
    S.STARTING: frozenset({S.RUNNING, S.RESTARTING, S.FAILED, S.DRAINING}),
    S.RUNNING: frozenset({S.DRAINING, S.RESTARTING, S.FAILED}),
    S.RESTARTING: frozenset({S.STARTING, S.QUEUED, S.FAILED, S.DRAINING}),
    # Back to running is `keep`: the user takes the warning back within the grace.
    S.DRAINING: frozenset({S.TERMINATED, S.RUNNING}),
    S.TERMINATED: frozenset(),
    S.CANCELLED: frozenset(),
    S.FAILED: frozenset(),
}

FINAL = frozenset(state for state, onward in _EDGES.items() if not onward)
LIVING = frozenset(AgentState) - FINAL
# A slot of the pool is held from the grant until the runtime said gone.
HOLDING = frozenset({S.STARTING, S.RUNNING, S.RESTARTING, S.DRAINING})
WAITING = frozenset({S.REQUESTED, S.QUEUED})
# What a life may be in that comes after another one and that nobody has heard of yet.
TO_COME = WAITING | {S.STARTING}
# One agent per user and project may be in one of these; an ending one may have its successor beside it.
CURRENT = LIVING - {S.DRAINING}


def legal(before: AgentState, after: AgentState) -> bool:
    return after in _EDGES[before]


class EndReason(StrEnum):
    """Why an agent stops or stopped: the specification's words, then Berth's own."""

    USER_REQUESTED = "user_requested"
    USER_LEFT = "user_left_project"
    INACTIVITY = "inactivity"
    SUBSCRIPTION_EXPIRED = "subscription_expired"
    RESOURCE_PRESSURE = "resource_pressure"
    MAINTENANCE = "maintenance"
    # An administrator's word for a stop: what Berth itself finds unhealthy it restarts, see `FailureKind`.
    HEALTH = "health_check_failed"
    OPERATOR = "operator"
    MAX_LIFE = "max_life"
    CANCELLED = "workflow_cancelled"
    WORKFLOW_GONE = "workflow_gone"


# The user may take these warnings back with `keep`; for the others the ground itself is gone.
KEEPABLE = frozenset({EndReason.INACTIVITY, EndReason.USER_REQUESTED, EndReason.USER_LEFT})
