"""For administrators: what is told outside, what could not be, and telling it again."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import problems
from api.deps import DepsOf, Operator
from api.pagination import Cursor, Limit, Page, seal, unseal
from api.schemas.base import NoticeIdPath
from api.schemas.notices import ChannelBody, NoticeBody, notice_body
from core.db.repositories import notices
from core.domain.notices import Channel, NoticeState
from core.errors import Conflict, Forbidden, NotFound

router = APIRouter(prefix="/api/admin/notices", tags=["admin"])

State = Annotated[NoticeState | None, Query(description="only those in this state; `dead`: those given up")]
By = Annotated[Channel | None, Query(description="only those of this channel")]


@router.get(
    "",
    operation_id="listNotices",
    summary="Webhooks and e-mails, newest first",
    responses=problems.responses(Forbidden),
)
async def list_notices(
    deps: DepsOf, who: Operator, state: State = None, channel: By = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[NoticeBody]:
    place = unseal("notices", cursor) if cursor is not None else None
    async with deps.acting(who) as (session, _):
        found, onward = await notices.page(session, state=state, channel=channel, limit=limit, cursor=place)
    return Page(items=[notice_body(view) for view in found], next_cursor=seal("notices", onward) if onward else None)


@router.post(
    "/{noticeId}/replay",
    operation_id="replayNotice",
    summary="Have a dead notice tried anew, under its old id",
    status_code=202,
    responses=problems.responses(Forbidden, NotFound, (Conflict, "wrong_state")),
)
async def replay_notice(deps: DepsOf, who: Operator, notice_id: NoticeIdPath) -> NoticeBody:
    async with deps.acting(who) as (session, _):
        return notice_body(await notices.replay(session, notice_id))


@router.post(
    "/channels/{channel}/close",
    operation_id="closeNoticeChannel",
    summary="Make no more notices for a channel, until a worker that sends them starts",
    responses=problems.responses(Forbidden),
)
async def close_notice_channel(deps: DepsOf, who: Operator, channel: Channel) -> ChannelBody:
    async with deps.acting(who) as (session, _):
        await notices.close_channel(session, channel)
    return ChannelBody(channel=channel, open=False)
