"""The outbox: notices taken for a while, settled once, given up, replayed. `events` makes them, with the event."""

from collections.abc import Mapping, Set
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Interval, Update, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Notice, NoticeChannel
from core.db.notify import Wake, notify
from core.db.portions import changed
from core.db.repositories import events, places
from core.db.repositories.events import Fact
from core.domain.events import EventKind
from core.domain.notices import Channel, Happened, NoticeState, Outcome, Trouble
from core.errors import Conflict, NotFound

_PENDING, _DEAD = NoticeState.PENDING.value, NoticeState.DEAD.value


class NoticeView(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    notice_id: str
    channel: Channel
    kind: EventKind
    user_id: str
    project_id: str
    agent_id: str | None
    recipient: str | None
    state: NoticeState
    tries: int
    created_at: datetime
    next_try_at: datetime | None
    error: str | None
    error_detail: str | None
    ended_at: datetime | None


class Taken(BaseModel):
    """One that is to be tried now, by nobody else for a while. `tired`: it has been tried for as long as any is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    notice_id: str
    channel: Channel
    recipient: str | None
    tries: int
    tired: bool
    happened: Happened


class Backlog(BaseModel):
    """Of one channel: since when the oldest undelivered one waits, how many are dead, and what all tries came to.

    `open`: more are made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    open: bool
    oldest_seconds: float
    dead: int
    outcomes: Mapping[str, int]


def view(row: Notice) -> NoticeView:
    return NoticeView(
        notice_id=row.notice_id,
        channel=Channel(row.channel),
        kind=EventKind(row.kind),
        user_id=row.user_id,
        project_id=row.project_id,
        agent_id=row.agent_id,
        recipient=row.recipient,
        state=NoticeState(row.state),
        tries=row.tries,
        created_at=row.created_at,
        next_try_at=row.next_try_at if row.state == _PENDING else None,
        error=row.error,
        error_detail=row.error_detail,
        ended_at=row.ended_at,
    )


async def open_channels(session: AsyncSession, wanted: Set[Channel]) -> None:
    """From now on notices are made for these channels. The others stay as they are; a new one is closed."""
    rows = [{"channel": each.value, "open": each in wanted} for each in sorted(Channel)]
    made = insert(NoticeChannel).values(rows)
    opens = made.excluded.open & ~NoticeChannel.open
    await session.execute(made.on_conflict_do_update(index_elements=["channel"], set_={"open": True}, where=opens))


async def close_channel(session: AsyncSession, channel: Channel) -> None:
    """From now on no notices are made for it, until somebody opens it. What waits is tried on."""
    closed = insert(NoticeChannel).values(channel=channel.value, open=False)
    await session.execute(closed.on_conflict_do_update(index_elements=["channel"], set_={"open": False}))


# By the database's clock, which all workers share. The rows are picked first: a plan may ask a subquery twice.
_TAKE = text(
    """
    WITH picked AS MATERIALIZED (
        SELECT notice_id FROM notices WHERE channel = :channel AND state = 'pending' AND next_try_at <= now()
        ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE notices SET tries = tries + 1, next_try_at = now() + :lease
    FROM picked WHERE notices.notice_id = picked.notice_id
    RETURNING notices.*, since + :patience <= now() AS tired
    """
).bindparams(bindparam("lease", type_=Interval), bindparam("patience", type_=Interval))


async def take(session: AsyncSession, channel: Channel, lease: timedelta, patience: timedelta) -> Taken | None:
    """The one that has been due for longest. One that is not settled within the `lease` is due again."""
    found = await session.execute(_TAKE, {"channel": channel.value, "lease": lease, "patience": patience})
    row = found.mappings().one_or_none()
    if row is None:
        return None
    who = {name: row[name] for name in ("kind", "user_id", "project_id", "agent_id")}
    return Taken(
        notice_id=row["notice_id"],
        channel=channel,
        recipient=row["recipient"],
        tries=row["tries"],
        tired=row["tired"],
        happened=Happened.model_validate({**who, **row["event"]}),
    )


async def due(session: AsyncSession, channel: Channel) -> tuple[int, float | None]:
    """How many could be tried now, and in how many seconds the next could (None: none waits)."""
    seconds = func.extract("epoch", func.min(Notice.next_try_at) - func.now())
    ripe = func.count().filter(Notice.next_try_at <= func.now())
    query = select(ripe, seconds).where(Notice.channel == channel.value, Notice.state == _PENDING)
    count, wait = (await session.execute(query)).one()
    return count, None if wait is None else max(float(wait), 0.0)


async def channels_with_work(session: AsyncSession) -> list[Channel]:
    query = select(Notice.channel).where(Notice.state == _PENDING, Notice.next_try_at <= func.now()).distinct()
    return [Channel(channel) for channel in (await session.scalars(query)).all()]


async def note_sent(session: AsyncSession, notice: Taken) -> None:
    """It arrived, whoever took it meanwhile too. Of an e-mail its user is told by an event, once."""
    sent = {"state": NoticeState.SENT.value, "ended_at": func.now(), "error": None, "error_detail": None}
    if await _settle(session, notice, Outcome.SENT, update(Notice).values(**sent)) and notice.channel is Channel.EMAIL:
        await _tell(session, notice)


async def note_failure(
    session: AsyncSession, notice: Taken, error: str, detail: str, again_after: timedelta | None
) -> None:
    """It did not arrive; None: nor will it. A try that was overtaken by another changes nothing."""
    told = {"error": error, "error_detail": detail}
    if again_after is None:
        outcome, change = Outcome.DEAD, update(Notice).values(state=_DEAD, ended_at=func.now(), **told)
    else:
        outcome, change = Outcome.RETRIED, update(Notice).values(next_try_at=func.now() + again_after, **told)
    await _settle(session, notice, outcome, change.where(Notice.tries == notice.tries))


_COUNT = text(
    "UPDATE notice_channels SET outcomes = outcomes || jsonb_build_object("
    "CAST(:outcome AS text), coalesce((outcomes ->> CAST(:outcome AS text))::bigint, 0) + 1"
    ") WHERE channel = :channel"
)


async def _settle(session: AsyncSession, notice: Taken, outcome: Outcome, change: Update) -> bool:
    """False when somebody else has settled it."""
    if not await changed(session, change.where(Notice.notice_id == notice.notice_id, Notice.state == _PENDING)):
        return False
    await session.execute(_COUNT, {"outcome": outcome.value, "channel": notice.channel.value})
    return True


_TELL = events.logging(
    "UPDATE agents SET event_seq = event_seq + :count WHERE agent_id = :agent"
    " RETURNING agent_id, user_id, project_id, event_seq"
)


async def _tell(session: AsyncSession, notice: Taken) -> None:
    about = notice.happened.kind.value
    told = {"channel": notice.channel.value, "noticeId": notice.notice_id, "about": about}
    detail = f"an e-mail about {about.replace('.', ' ')}"
    at = (await session.execute(select(func.now()))).scalar_one()
    fact = Fact(kind=EventKind.NOTICE_SENT, detail={**told, "detail": detail})
    await session.execute(_TELL, {"agent": notice.happened.agent_id, **events.log_values(at, [fact])})


async def page(
    session: AsyncSession,
    *,
    state: NoticeState | None = None,
    channel: Channel | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[NoticeView], str | None]:
    """One page, newest first, and the cursor of the next page."""
    query = select(Notice)
    if state is not None:
        query = query.where(Notice.state == state.value)
    if channel is not None:
        query = query.where(Notice.channel == channel.value)
    rows, onward = await places.page(session, query, Notice.created_at, Notice.notice_id, limit, cursor)
    return [view(row) for row in rows], onward


async def replay(session: AsyncSession, notice_id: str) -> NoticeView:
    """Try a dead one anew, under its old id, for as long as a fresh one. Raises `NotFound`, `Conflict`."""
    row = await session.get(Notice, notice_id, with_for_update=True)
    if row is None:
        raise NotFound("no such notice")
    if row.state != _DEAD:
        raise Conflict(f"the notice is {row.state}; only a dead one is replayed", code="wrong_state", state=row.state)
    row.state, row.tries, row.ended_at = _PENDING, 0, None
    row.since = row.next_try_at = (await session.execute(select(func.now()))).scalar_one()
    await session.flush()
    await notify(session, Wake.NOTICES, row.channel)
    return view(row)


async def backlogs(session: AsyncSession) -> dict[Channel, Backlog]:
    """Of every channel, once there was a worker."""
    age = func.extract("epoch", func.now() - func.min(Notice.since))
    waits = select(Notice.channel, age).where(Notice.state == _PENDING).group_by(Notice.channel)
    oldest = {channel: float(seconds) for channel, seconds in (await session.execute(waits)).all()}
    gone = select(Notice.channel, func.count()).where(Notice.state == _DEAD).group_by(Notice.channel)
    dead = {channel: int(count) for channel, count in (await session.execute(gone)).all()}
    return {
        Channel(row.channel): Backlog(
            open=row.open,
            oldest_seconds=max(oldest.get(row.channel, 0.0), 0.0),
            dead=dead.get(row.channel, 0),
            outcomes=row.outcomes,
        )
        for row in (await session.scalars(select(NoticeChannel))).all()
    }


async def give_up(session: AsyncSession, channel: Channel, patience: timedelta) -> int:
    """End those of a channel that have waited for as long as any is tried; return how many."""
    dead = {"state": _DEAD, "ended_at": func.now(), "error": Trouble.CLOSED.value, "error_detail": "nobody sends these"}
    old = select(Notice.notice_id).where(
        Notice.channel == channel.value, Notice.state == _PENDING, Notice.since <= func.now() - patience
    )
    untold = Notice.notice_id.in_(old.with_for_update(skip_locked=True))
    return await changed(session, update(Notice).values(**dead).where(untold))
