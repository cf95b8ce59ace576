"""Every duration of an agent's life, in seconds, in one frozen value, so that a test can shrink them all."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# What a runtime needs to have an agent gone that has left, or is killed, and what telling everybody to go takes.
REMOVAL_SECONDS = 10.0
# The longest warning that anybody may be given.
MOST_GRACE_SECONDS = 600.0


class Timings(BaseModel):
    """Defaults are the specification's unless a line says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace_seconds: float = Field(
        120, ge=0, le=MOST_GRACE_SECONDS, description="warning before a stop that the user did not ask for"
    )
    shutdown_seconds: float = Field(30, gt=0, description="an agent's time to save and leave, then force")
    idle_seconds: float = Field(1800, gt=0, description="without activity, then drain")
    away_seconds: float = Field(900, gt=0, description="user offline: first to go under pressure")
    ready_deadline_seconds: float = Field(90, gt=0, description="from create to usable")
    channel_lost_seconds: float = Field(
        120, gt=0, description="without a word; counted only while API and database were up"
    )
    reconnect_seconds: float = Field(30, gt=0, description="after an outage of ours, for agents to come back")
    heartbeat_seconds: float = Field(30, gt=0, description="an agent's report; two missed are a failed health check")
    restart_backoff_seconds: float = Field(2, ge=0, description="2, 4, 8")
    healthy_seconds: float = Field(600, gt=0, description="running that long forgives earlier restarts")
    reap_seconds: float = Field(30, gt=0)
    pressure_seconds: float = Field(60, gt=0)
    grant_tick_seconds: float = Field(30, gt=0, description="a waiting pool looks again without being told")
    snapshot_seconds: float = Field(5, gt=0, description="a cluster's capacity is measured again")
    max_life_seconds: float = Field(0, ge=0, description="from the first start on; 0 = no limit")

    @property
    def leaving_seconds(self) -> float:
        """So long after the end of its grace an agent is gone at the latest, where its runtime answers."""
        return self.shutdown_seconds + REMOVAL_SECONDS

    @property
    def silent_after(self) -> timedelta:
        """So long after its last word an agent is silent, though not yet lost: more than one report is missing."""
        return timedelta(seconds=self.channel_lost_seconds / 2)


def _heard_in_time(timings: Timings) -> Timings:
    lost, beat = timings.channel_lost_seconds, timings.heartbeat_seconds
    if lost <= 2 * beat:
        raise ValueError(
            f"channel_lost_seconds ({lost:g}) must be more than twice heartbeat_seconds ({beat:g}), "
            "or healthy agents are taken for lost"
        )
    return timings


# As they are set: an agent that says all it should is not taken for lost. Not asked of every value: lives that go on
# carry what they began with, and must be read.
SetTimings = Annotated[Timings, AfterValidator(_heard_in_time)]


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)
