"""What goes into and comes out of the activities that serve no single life: queues, schedules, looks, notices."""

from datetime import datetime

from core.domain.notices import Channel
from core.domain.pressure import Eviction
from core.domain.value import Value


class PoolRef(Value):
    pool: str


class Granted(Value):
    granted: int
    waiting: int
    unseen: int


class ScheduledRef(Value):
    scheduled_start_id: str


class DueStart(ScheduledRef):
    """`last`: no further try follows, so a queue that is full ends it too."""

    last: bool = False


class Tried(Value):
    """`over` False: the queue is full, try again."""

    over: bool


class Reaped(Value):
    """What a look found and mended, by kind; `stays` is what was nobody's and would not go."""

    objects: int = 0
    rows: int = 0
    workflows: int = 0
    scheduled_starts: int = 0
    profiles: int = 0
    stays: int = 0
    channels_lost: int = 0
    subscriptions: int = 0
    former_members: int = 0
    pools_woken: int = 0


class PressureLook(Value):
    """`at` names the look: the same moment again is the same look, tried once more."""

    at: datetime


class Leaving(Value):
    cluster: str
    eviction: Eviction


class PressureSeen(Value):
    """Who is to leave, and the clusters whose disks are nearly full."""

    leaving: tuple[Leaving, ...] = ()
    emergencies: tuple[str, ...] = ()


class Evictions(Value):
    at: datetime
    leaving: tuple[Leaving, ...]


class Emergency(Value):
    at: datetime
    clusters: tuple[str, ...]


class Cleaned(Value):
    profiles: int = 0


class Warned(Value):
    """How many agents were told to go."""

    agents: int = 0


class Delivery(Value):
    """Send what is due on one channel."""

    channel: Channel


class Delivered(Value):
    """What came of it, and in how many seconds the next is due (None: nothing waits; 0: more is due now)."""

    sent: int = 0
    retried: int = 0
    dead: int = 0
    next_in_seconds: float | None = None


class Nothing(Value):
    pass
