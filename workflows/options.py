"""How activities are called, one policy a kind, and the names workflows share with those who start them."""

from datetime import timedelta
from typing import Any

from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.workflow import ActivityCancellationType

CONTROL_QUEUE = "berth"


def runtime_queue(pool: str) -> str:
    """Where a pool's runtime can be reached; work goes to the place that can do it."""
    return f"runtime/{pool}"


# A step that a dying worker took is another's after this long (Temporal's own: 10 s). A step takes milliseconds; one
# that waits for the database keeps its worker by saying so.
TASK_TIMEOUT = timedelta(seconds=4)

AGENT_ID = SearchAttributeKey.for_keyword("AgentId")
AGENT_STATE = SearchAttributeKey.for_keyword("AgentState")
AGENT_USER = SearchAttributeKey.for_keyword("AgentUser")
AGENT_PROJECT = SearchAttributeKey.for_keyword("AgentProject")
AGENT_POOL = SearchAttributeKey.for_keyword("AgentPool")
AGENT_REASON = SearchAttributeKey.for_keyword("AgentReason")
SEARCH_ATTRIBUTES = (AGENT_ID, AGENT_STATE, AGENT_USER, AGENT_PROJECT, AGENT_POOL, AGENT_REASON)

# A run is handed on long before the server's own limit: replaying costs about 0.6 ms an event.
HISTORY_LIMIT = 2000

# Steps that came later: a run that passed the place without them replays without them.
FORCE_IS_HEARD = "force is heard while the agent saves"
DEADLINE_IS_TOLD = "a shortened grace is told"
RESET_IS_NOTICED = "failures of attempts unknown to a reset run are noticed"
STOPS_ADD_UP = "a stop takes nothing from one that is not taken yet"
LIVES_FROM_ITS_BEGIN = "the longest life does not count the time in line"
REFUSAL_IS_OF_ITS_TEMPLATE = "what was refused for one template is decided anew for another"
END_IS_AWAITED = "a start waits for an end that is being written"
WARNING_IS_AWAITED = "a keep waits for a warning that is being written"
PLACE_IS_GIVEN_BACK = "a restart that has no room waits in line"
LAST_CHANCE_IS_GIVEN = "a removal under way that is given up has a last chance"
STOP_GOES_FIRST = "what is asked after an order to stop comes after it"
WARNING_IS_GIVEN_AGAIN = "a warning of a step that was lost is given with its grace"
KEEP_IS_ON_RECORD = "a keep is on record before it is written"
FAILURE_STANDS = "a restart that is asked for takes no failure's place"
GRACE_FOLLOWS_ITS_WARNING = "a grace whose warning could not be written in time begins with it"
IDLE_TIME_GOES_ON = "a run that goes on looks at once for how long its agent is idle"
MOVE_IS_NOT_PROMISED = "a move is refused while its agent is on its way out of running"
LOST_HOST_ENDS_NOBODY = "a lost host spends no restart of one who has none left either"

# The database may be away for a while; no step of a life can be skipped, so local activities try as long as it takes.
# Longer pauses are timers of the server's: in them a life that can never write takes no worker's step from others. Each
# adds six events to its history, which the server ends when it is full: at 30 s, after three days without a database.
# They grow slowly, or a life would stand still after a short outage for about as long again.
LOCAL: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=15),
    "local_retry_threshold": timedelta(seconds=2),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200), backoff_coefficient=1.25, maximum_interval=timedelta(seconds=30)
    ),
}

# A try that a dying worker took is noticed after this long; activities beat every second.
_BEAT = timedelta(seconds=4)


def create_options(pool: str, deadline_seconds: float) -> dict[str, Any]:
    """Tries within the start deadline. A cancel waits for the try under way: no create may end after its delete."""
    return {
        "task_queue": runtime_queue(pool),
        "start_to_close_timeout": timedelta(seconds=45),
        "schedule_to_close_timeout": timedelta(seconds=deadline_seconds),
        "heartbeat_timeout": _BEAT,
        "retry_policy": RetryPolicy(
            initial_interval=timedelta(milliseconds=250),
            backoff_coefficient=2,
            maximum_interval=timedelta(seconds=5),
            non_retryable_error_types=["runtime_permanent", "never_satisfiable"],
        ),
        "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    }


def removal_options(pool: str, within_seconds: float) -> dict[str, Any]:
    """Tries until the runtime says gone: a slot is never given back before."""
    return {
        "task_queue": runtime_queue(pool),
        "start_to_close_timeout": timedelta(seconds=within_seconds + 60),
        "heartbeat_timeout": _BEAT,
        "retry_policy": RetryPolicy(
            initial_interval=timedelta(milliseconds=250), backoff_coefficient=2, maximum_interval=timedelta(seconds=15)
        ),
    }


# Whoever ordered it waits for so long at most; it goes on beyond that, also when a worker dies of it.
_ORDER = timedelta(seconds=120)
ORDER_REFUSALS = ("cluster_quota_exceeded", "cluster_rights_missing")


def order_options(pool: str) -> dict[str, Any]:
    """Of a change to a running agent. Cancelled when the agent goes meanwhile: nothing of it needs clearing up."""
    return {
        "task_queue": runtime_queue(pool),
        "start_to_close_timeout": timedelta(seconds=45),
        "schedule_to_close_timeout": _ORDER,
        "heartbeat_timeout": _BEAT,
        "retry_policy": RetryPolicy(
            initial_interval=timedelta(milliseconds=250),
            backoff_coefficient=2,
            maximum_interval=timedelta(seconds=5),
            # Quota and rights are an operator's to change, not a moment's: whoever waits is told.
            non_retryable_error_types=["runtime_permanent", "never_satisfiable", *ORDER_REFUSALS],
        ),
    }


# A scheduled start that is due is made, however long whatever it needs is away.
START: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=30),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
    ),
}

# A look is soon followed by the next, which sees things as they are then.
LOOK_FOR_PRESSURE: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=15),
    "retry_policy": RetryPolicy(maximum_attempts=3),
}
EVICT: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=60),
    "schedule_to_close_timeout": timedelta(seconds=120),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
}
# An operator waits for it: what does not answer is asked again for as long as that makes sense.
MAINTAIN: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=180),
    "schedule_to_close_timeout": timedelta(hours=1),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=15)
    ),
}
CLEAR: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=180),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(maximum_attempts=2),
}

# What will not go takes half a minute to say so. A worker that dies in the middle is noticed by its beats.
REAP: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=180),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(maximum_attempts=2),
}

# Goes on for as long as it takes: the outbox is drained by nothing else. A pass ends well before its time is up.
DELIVER: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=120),
    "heartbeat_timeout": _BEAT,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=500), backoff_coefficient=2, maximum_interval=timedelta(seconds=15)
    ),
}
