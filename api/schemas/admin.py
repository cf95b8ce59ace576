"""What administrators see and set: users, projects, pools."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from api.schemas.base import EXAMPLE_TIME, Answered, Asked, Moment, UserIdText
from core.domain.mailboxes import mailbox
from core.domain.room import Snapshot
from core.domain.sizes import BYTES, CORES
from core.domain.thresholds import Measure
from core.domain.tiers import Tier
from core.domain.timings import MOST_GRACE_SECONDS

MOST_MEMBERS = 1000
_EMAIL = r"^[^\s@\x00-\x1f]+@[^\s@\x00-\x1f]+$"


def _writable(email: str) -> str:
    mailbox(email)  # its ValueError is the field's problem
    return email


class UserPut(Asked):
    """What is left out stays as it is; of a new user: no e-mail, tier `free`, a subscription without end."""

    email: Annotated[str, AfterValidator(_writable)] | None = Field(
        None, max_length=320, pattern=_EMAIL, examples=["ada@example.org"]
    )
    tier: Tier = Field(Tier.FREE, examples=["basic"])
    subscription_active_until: Moment | None = Field(None, examples=[EXAMPLE_TIME], description="null: no end")


class UserBody(Answered):
    user_id: str = Field(examples=["ada"])
    email: str | None
    tier: Tier
    subscription_active_until: datetime | None


class ProjectPut(Asked):
    members: Annotated[list[UserIdText], Field(max_length=MOST_MEMBERS, examples=[["ada"]])]


class ProjectBody(Answered):
    project_id: str = Field(examples=["shop"])
    members: list[str] = Field(examples=[["ada"]])


class TerminateBody(Asked):
    """`reason` is a word of Berth's own (such as `maintenance`) or a sentence, kept with reason `operator`."""

    reason: str = Field("operator", min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
    grace_seconds: float | None = Field(
        None, ge=0, le=MOST_GRACE_SECONDS, allow_inf_nan=False, strict=True, description="null: by the reason"
    )
    force: bool = Field(False, description="no warning, no saving")
    abandon: bool = Field(
        False,
        description="by force, and without its runtime's word that it is gone: only for a runtime that does not answer",
    )


class ResizeBody(Asked):
    """The limits that a running agent is to have from now on. What is left out stays as it is."""

    cpu: str | None = Field(None, pattern=CORES, examples=["1500m"], description="cores: 1.5 or 1500m")
    memory: str | None = Field(None, pattern=BYTES, examples=["2Gi"], description="bytes: 2Gi or 1536Mi")

    @model_validator(mode="after")
    def _something(self) -> "ResizeBody":
        if self.cpu is None and self.memory is None:
            raise ValueError("say cpu, memory or both")
        return self


class ReportBody(Answered):
    """What an agent last told of itself, some 30 s ago at most while it is well."""

    at: datetime = Field(examples=[EXAMPLE_TIME])
    status: str = Field(examples=["healthy"])
    detail: str
    uptime_seconds: float
    memory_bytes: int
    network_mbit: float | None = Field(description="sent and received; null: its runtime does not keep it apart")
    browser_active: bool
    task_running: bool
    viewers: int


class CapacityFrom(StrEnum):
    OPERATOR = "operator"
    SETTINGS = "settings"
    CLUSTER = "cluster"
    UNKNOWN = "unknown"


class MeasureBody(Answered):
    """`value` null: nobody measures it, so it shuts no door. `limit` null: there is none."""

    measure: Measure = Field(examples=[Measure.MEMORY])
    value: float | None = Field(examples=[72.5], description="percent, of the network Mbit/s")
    limit: float | None = Field(examples=[90.0])
    over: bool


class PoolBody(Answered):
    """`capacity` null and `clusterFree` null: nobody has measured lately, so nothing counts as free."""

    pool: str = Field(examples=["default"])
    template: str
    runtime: str
    cluster: str
    capacity: int | None
    capacity_from: CapacityFrom
    cluster_free: int | None = Field(description="how many more the whole cluster takes")
    holders: int
    over_capacity: int = Field(description="holders that the capacity has no place for: they go on, nobody is let in")
    waiting: int
    starting: int = Field(description="holders that are not usable yet")
    max_starting: int | None = Field(
        description="how many may start at once, by machines and settings; null: any number"
    )
    starts_left: int | None = Field(
        description="how many more may start now, those of the cluster's other pools counted; null: any number"
    )
    paused: bool
    choked: bool = Field(description="the cluster is over its thresholds")
    refused: bool = Field(description="an agent of the pool found no machine, and nothing has come free since")
    snapshot: Snapshot = Field(description="how old the last look at the cluster is; only a fresh one lets anybody in")
    measures: list[MeasureBody] = Field(description="what is in use, and from where on nobody is let in")
    nodes: int | None = Field(description="machines that take agents now; null: nobody knows")


class PoolsBody(Answered):
    items: list[PoolBody]


class PoolPut(Asked):
    """What is left out stays as it is; `capacity` null gives the pool back to its settings."""

    capacity: int | None = Field(None, ge=0, le=1_000_000)
    paused: bool | None = None
