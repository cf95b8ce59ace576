"""How bodies look outside: camelCase names, and nothing that Berth does not know in what it is sent."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from core.domain import schedule
from core.errors import InvalidRequest
from core.ids import MAX_ID_BYTES, check_id

EXAMPLE_AGENT_ID = "ag-019a8d1c0f5a7c3e9b1f4a2d6c8e0b73"
EXAMPLE_SCHEDULED_ID = "ss-019a8d1c0f5a7c3e9b1f4a2d6c8e0b73"
EXAMPLE_NOTICE_ID = f"{EXAMPLE_AGENT_ID}-7-webhook"
EXAMPLE_TIME = "2026-03-01T09:30:00Z"


class Asked(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False, frozen=True, extra="forbid")


class Answered(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


def _id(what: str) -> Any:
    # MalformedId is a ValueError, so its sentence reaches the caller as that field's problem.
    return AfterValidator(lambda value: check_id(value, what))


def _read(value: Any) -> datetime:
    """Times come as RFC 3339 text. Numbers, also those in text, are mistakes: pydantic takes them for Unix time."""
    if not isinstance(value, str):
        raise ValueError("a time is RFC 3339 text, such as 2026-03-01T09:30:00Z")
    return schedule.moment(value)


Moment = Annotated[AwareDatetime, BeforeValidator(_read)]


def _due(value: Any) -> datetime | None:
    """Not pydantic's own refusal: whoever plans a start is told apart from who sends nonsense."""
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("it is no text")
        return schedule.moment(value)
    except ValueError as error:
        raise InvalidRequest(f"startAt is no time that Berth can keep: {error}", code="invalid_start_at") from None


Due = Annotated[AwareDatetime | None, BeforeValidator(_due)]
UserIdText = Annotated[str, _id("userId")]
ProjectIdText = Annotated[str, _id("projectId")]

_LONG = MAX_ID_BYTES
ProjectIdPath = Annotated[
    str, Path(alias="projectId", min_length=1, max_length=_LONG, examples=["shop"]), _id("projectId")
]
UserIdPath = Annotated[str, Path(alias="userId", min_length=1, max_length=_LONG, examples=["ada"]), _id("userId")]
AgentIdPath = Annotated[
    str, Path(alias="agentId", min_length=1, max_length=_LONG, examples=[EXAMPLE_AGENT_ID]), _id("agentId")
]
ScheduledIdPath = Annotated[
    str,
    Path(alias="scheduledStartId", min_length=1, max_length=_LONG, examples=[EXAMPLE_SCHEDULED_ID]),
    _id("scheduledStartId"),
]
NoticeIdPath = Annotated[
    str, Path(alias="noticeId", min_length=1, max_length=_LONG, examples=[EXAMPLE_NOTICE_ID]), _id("noticeId")
]
PoolPath = Annotated[str, Path(alias="pool", min_length=1, max_length=_LONG, examples=["default"]), _id("pool")]
