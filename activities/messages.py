"""What goes into and comes out of the activities that serve no single life: queues, schedules, looks, notices."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from core.domain.notices import Channel
from core.domain.pressure import Eviction


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolRef(Message):
    pool: str


class Granted(Message):
    granted: int
    waiting: int
    unseen: int


class ScheduledRef(Message):
    scheduled_start_id: str


class DueStart(ScheduledRef):
    """`last`: no further try follows, so a queue that is full ends it too."""

    last: bool = False


class Tried(Message):
    """`over` False: the queue is full, try again."""

    over: bool


class Reaped(Message):
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


class PressureLook(Message):
    """`at` names the look: the same moment again is the same look, tried once more."""

    at: datetime


class Leaving(Message):
    cluster: str
    eviction: Eviction


class PressureSeen(Message):
    """Who is to leave, and the clusters whose disks are nearly full."""

    leaving: tuple[Leaving, ...] = ()
    emergencies: tuple[str, ...] = ()


class Evictions(Message):
    at: datetime
    leaving: tuple[Leaving, ...]


class Emergency(Message):
    at: datetime
    clusters: tuple[str, ...]


class Cleaned(Message):
    profiles: int = 0


class Delivery(Message):
    """Send what is due on one channel."""

    channel: Channel


class Delivered(Message):
    """What came of it, and in how many seconds the next is due (None: nothing waits; 0: more is due now)."""

    sent: int = 0
    retried: int = 0
    dead: int = 0
    next_in_seconds: float | None = None


class Nothing(Message):
    pass
