"""What the database tells of a running installation: its schema, the age of looks at clusters, undelivered notices."""

import asyncio
from collections.abc import Mapping, Set
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from api.cli.stranded import MEND, stranded, told
from api.cli.verdicts import Check, For, Verdict
from core.db.migrate import is_current
from core.db.repositories import census, notices, upkeep
from core.db.repositories.clusters import STALE_AFTER
from core.domain.notices import Channel
from core.runtime.registry import runtime_names

if TYPE_CHECKING:
    from core.db.engine import Db
    from core.settings import Settings

_RUNNING = For.RUNNING
_SECONDS = 10.0
# As the alert BerthNoticesLate has it.
_LATE_SECONDS = 900


async def schema(db: "Db") -> Check:
    """Raises what the database does."""
    if await is_current(db):
        return Check(_RUNNING, "database", Verdict.OK, "answers, and its schema is this version's or later")
    return Check(_RUNNING, "database", Verdict.PROBLEM, "its schema is older than this version", "berth migrate")


async def places(db: "Db | None", settings: "Settings") -> set[str]:
    """Pools whose task queues somebody has to serve: those configured and, where `db` can be asked, those in use."""
    configured = set(settings.all_pools())
    if db is None:
        return configured
    try:
        async with asyncio.timeout(_SECONDS), db.single() as session:
            used = await upkeep.places_in_use(session)
    except (SQLAlchemyError, OSError, TimeoutError):
        # Told of where its tables are read for their own sake.
        return configured
    return configured | {pool for pool, runtime in used.items() if runtime in runtime_names()}


async def examine(db: "Db", settings: "Settings") -> list[Check]:
    try:
        async with asyncio.timeout(_SECONDS), db.single() as session:
            measured, backlogs = await census.measured(session), await notices.backlogs(session)
            left = await stranded(session, settings)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        found = f"its tables cannot be read ({type(error).__name__})"
        return [Check(_RUNNING, "database", Verdict.PROBLEM, found, "look at the database's log")]
    now = datetime.now(UTC)
    clusters = dict.fromkeys(pool.cluster for pool in settings.all_pools().values())
    return [
        *(_look(cluster, measured.get(cluster), now) for cluster in clusters),
        _runtimes(left),
        *_outboxes(backlogs, settings.notice_channels()),
    ]


def _runtimes(left: Mapping[str, int]) -> Check:
    what = "runtimes of living agents"
    if left:
        return Check(_RUNNING, what, Verdict.PROBLEM, told(left), MEND)
    return Check(_RUNNING, what, Verdict.OK, "a worker has each")


def _look(cluster: str, seen: census.Measured | None, now: datetime) -> Check:
    what, mend = f"look at cluster {cluster}", "nobody is let in there; look at the worker's log for sample.failed"
    if seen is None:
        return Check(_RUNNING, what, Verdict.PROBLEM, "nobody has measured it yet", mend)
    age = now - seen.measured_at
    old = f"{max(age.total_seconds(), 0):.0f} s old"
    if age > STALE_AFTER:
        return Check(_RUNNING, what, Verdict.PROBLEM, old, mend)
    if seen.look is not None and seen.choked:
        over = ", ".join(str(each.measure) for each in seen.look.over)
        return Check(
            _RUNNING,
            what,
            Verdict.NOTE,
            f"{old}; over its threshold: {over}",
            "nobody is let in until that is lower again",
        )
    return Check(_RUNNING, what, Verdict.OK, old)


def _outboxes(backlogs: Mapping[Channel, notices.Backlog], sent: Set[Channel]) -> list[Check]:
    """Of each channel that is `sent` by whoever has these settings, or that notices are made for all the same."""
    opened = {channel for channel, backlog in backlogs.items() if backlog.open}
    return [_outbox(channel.value, backlogs.get(channel), channel in sent) for channel in sorted(opened | sent)]


def _outbox(channel: str, backlog: notices.Backlog | None, sent: bool) -> Check:
    what = f"notices by {channel}"
    oldest = backlog.oldest_seconds if backlog is not None else 0
    if oldest > _LATE_SECONDS:
        found = f"the oldest has not been delivered for {oldest:.0f} s"
        mend = "berth notices says why it is not taken" if sent else _unsent(channel)
        return Check(_RUNNING, what, Verdict.PROBLEM, found, mend)
    if not sent:
        return Check(_RUNNING, what, Verdict.NOTE, "they are made, and these settings send none", _unsent(channel))
    if backlog is not None and backlog.dead:
        found = f"{backlog.dead} were given up"
        return Check(_RUNNING, what, Verdict.NOTE, found, "berth notices replay --all-dead sends them again")
    found = f"the oldest undelivered is {oldest:.0f} s old" if oldest else "all are delivered"
    return Check(_RUNNING, what, Verdict.OK, found)


def _unsent(channel: str) -> str:
    return f"where no worker is set up to send them: set one up, or: berth notices close {channel}"
