"""What an administrator says of a maintenance, and is told."""

from datetime import datetime

from pydantic import Field, model_validator

from api.schemas.base import EXAMPLE_TIME, Answered, Asked, Moment

_LINE = r"^[^\x00-\x1f\x7f]+$"
_GONE_BY = "when agents are to be gone; null, or sooner than their grace allows: they leave when that is over"


class MaintenancePost(Asked):
    """What is to be serviced: a pool, or a machine by the name that its runtime gives it."""

    pool: str | None = Field(None, min_length=1, max_length=256, pattern=_LINE, examples=["default"])
    node: str | None = Field(None, min_length=1, max_length=256, pattern=_LINE, examples=["worker-3"])
    starts_at: Moment | None = Field(None, examples=[EXAMPLE_TIME], description=_GONE_BY)
    reason: str | None = Field(
        None, min_length=1, max_length=500, pattern=_LINE, examples=["a new kernel"], description="users read it"
    )

    @model_validator(mode="after")
    def _one(self) -> "MaintenancePost":
        if (self.pool is None) == (self.node is None):
            raise ValueError("say pool or node")
        return self


class MaintenanceBody(Answered):
    """It goes on by itself from here: `agent.warning` and `agent.draining` among the agents' events tell."""

    maintenance_id: str = Field(examples=["mt-019a8d1c0f5a7c3e9b1f4a2d6c8e0b73"])
    pool: str | None
    node: str | None
    starts_at: datetime | None = Field(description=_GONE_BY)
    warns_at: datetime = Field(examples=[EXAMPLE_TIME], description="when whoever lives there then is told to go")
    warned: int | None = Field(
        None, description="how many agents were told to go; null while that is to come, or takes more than seconds"
    )
    reason: str | None
