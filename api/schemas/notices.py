"""A notice as administrators see it."""

from datetime import datetime

from pydantic import Field

from api.schemas.base import EXAMPLE_NOTICE_ID, Answered
from core.db.repositories.notices import NoticeView
from core.domain.events import EventKind
from core.domain.notices import Channel, NoticeState


class NoticeBody(Answered):
    """`noticeId` is what its receiver knows it by, whichever try it came with."""

    notice_id: str = Field(examples=[EXAMPLE_NOTICE_ID])
    channel: Channel
    kind: EventKind = Field(description="the event that it tells of")
    user_id: str
    project_id: str
    agent_id: str | None
    recipient: str | None = Field(description="of an e-mail, the address")
    state: NoticeState
    tries: int = Field(description="since it was made or replayed")
    created_at: datetime
    next_try_at: datetime | None
    error: str | None = Field(description="why the last try failed, for programs", examples=["webhook_timeout"])
    error_detail: str | None = Field(description="the same for people")
    ended_at: datetime | None


class ChannelBody(Answered):
    """A way out, and whether notices are made for it."""

    channel: Channel = Field(examples=[Channel.EMAIL])
    open: bool


def notice_body(view: NoticeView) -> NoticeBody:
    return NoticeBody.model_validate(view.model_dump())
