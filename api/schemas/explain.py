"""What a start would lead to, with every check and its numbers."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas.agents import AgentBody, WaitRange
from api.schemas.base import EXAMPLE_AGENT_ID, EXAMPLE_TIME, Answered
from core.domain.admission import Check, Numbers
from core.domain.tiers import Tier


class CheckBody(Answered):
    """`numbers` are those that the check was made with; null is unknown, which never counts as free."""

    check: Check = Field(examples=[Check.ROOM])
    passed: bool
    numbers: Numbers = Field(examples=[{"holders": 20, "capacity": 20, "clusterFree": 0}])


class PlaceBody(Answered):
    """`ahead`: how many of each tier wait before it."""

    position: int = Field(examples=[3])
    estimated_wait_minutes: int = Field(examples=[12])
    estimated_wait: WaitRange
    ahead: dict[Tier, int]


class HelpBody(Answered):
    """One thing that would change the answer."""

    action: Literal[
        "renew_subscription",
        "upgrade_subscription",
        "stop_agent",
        "choose_smaller_template",
        "wait",
        "retry_later",
        "cancel_a_scheduled_start",
    ]
    agent_id: str | None = Field(None, examples=[EXAMPLE_AGENT_ID], description="with stop_agent: which one")
    project_id: str | None = Field(None, examples=["shop"], description="with stop_agent: its project")
    tier: Tier | None = Field(None, description="with upgrade_subscription: the next tier that would do")
    place: PlaceBody | None = Field(None, description="with upgrade_subscription: where that tier would wait")


class ExplainBody(Answered):
    """What start-agent would do now; nothing was changed. `existing`: the project's agent lives or waits already.

    `scheduled`: it would wait for its time, and be decided by what is true then, so that no checks are shown.
    """

    status: Literal["created", "existing", "queued", "rejected", "scheduled"]
    reason: str | None = Field(None, examples=["no_suitable_node"])
    checks: list[CheckBody]
    place: PlaceBody | None = Field(None, description="where it would wait; null when it would not")
    helps: list[HelpBody]
    agent: AgentBody | None = Field(None, description="with existing: the agent")
    start_at: datetime | None = Field(None, description="with scheduled: when, in UTC", examples=[EXAMPLE_TIME])
