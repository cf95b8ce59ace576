"""A running installation, asked part by part: what of it answers, works and keeps up. Changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from activities.leftovers import ownerless
from api.cli import database_checks, temporal_checks, watch_checks
from api.cli.client import api_url
from api.cli.local import addressed
from api.cli.verdicts import Check, For, Verdict
from core.db.engine import Db
from core.db.repositories import upkeep
from core.errors import Unavailable
from temporal.client import connect
from temporal.lives import Lives

if TYPE_CHECKING:
    from temporalio.client import Client

    from core.settings import Settings

_SECONDS = 10.0
_RUNNING = For.RUNNING
_MOST_ASKED = 100


async def examine(settings: "Settings") -> list[Check]:
    """Every check, each within a few seconds; what lies behind a part that is away is not asked."""
    settings = addressed(settings)
    checks = [await _api()]
    async with _database(settings) as (db, told), _temporal(settings) as (client, said):
        checks += [told, said]
        if db is not None:
            checks += await database_checks.examine(db, settings)
        if client is not None:
            places = await database_checks.places(db, settings)
            checks += await temporal_checks.examine(client, settings, sorted(places))
        if db is not None and client is not None:
            checks.append(await _ownerless(db, client, settings))
    return [*checks, *await watch_checks.examine(settings)]


async def _api() -> Check:
    url = api_url()
    try:
        async with httpx2.AsyncClient(timeout=_SECONDS, trust_env=False) as http:
            answer = await http.get(f"{url.rstrip('/')}/ready")
            body = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        found = f"none answers at {url} ({type(error).__name__})"
        return Check(_RUNNING, "API", Verdict.PROBLEM, found, "start it, or set BERTH_API_URL")
    if answer.status_code == 200:
        return Check(_RUNNING, "API", Verdict.OK, f"ready at {url}")
    parts = body.get("checks") if isinstance(body, dict) else None
    ill = [f"{name}: {said}" for name, said in (parts or {}).items() if said != "ok"]
    found = f"not ready at {url}: {', '.join(ill) or f'it says {answer.status_code}'}"
    return Check(_RUNNING, "API", Verdict.PROBLEM, found, "mend that part; its log has the cause")


@asynccontextmanager
async def _database(settings: "Settings") -> AsyncIterator[tuple[Db | None, Check]]:
    what = "database"
    if settings.database.url is None:
        mend = "set BERTH_DATABASE__URL, or start everything with: berth up"
        yield None, Check(_RUNNING, what, Verdict.PROBLEM, "the settings name none", mend)
        return
    async with Db.open(settings.database.url.get_secret_value(), application="doctor", pool_size=1) as db:
        try:
            async with asyncio.timeout(_SECONDS):
                told = await database_checks.schema(db)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            found = f"it cannot be asked ({type(error).__name__})"
            yield None, Check(_RUNNING, what, Verdict.PROBLEM, found, "start it, or correct BERTH_DATABASE__URL")
        else:
            yield (db if told.verdict is Verdict.OK else None), told


@asynccontextmanager
async def _temporal(settings: "Settings") -> AsyncIterator[tuple["Client | None", Check]]:
    what, where = "Temporal", settings.temporal.address
    if where is None:
        mend = "set BERTH_TEMPORAL__ADDRESS, or start everything with: berth up"
        yield None, Check(_RUNNING, what, Verdict.PROBLEM, "the settings name none", mend)
        return
    try:
        async with asyncio.timeout(_SECONDS):
            client = await connect(settings, lazy=False)
            told = await temporal_checks.namespace(client)
    except (RPCError, RuntimeError, TimeoutError) as error:
        found = f"none answers at {where} ({type(error).__name__})"
        yield None, Check(_RUNNING, what, Verdict.PROBLEM, found, "start it, or correct BERTH_TEMPORAL__ADDRESS")
    else:
        yield (client if told.verdict is Verdict.OK else None), told


async def _ownerless(db: Db, client: "Client", settings: "Settings") -> Check:
    """Living rows whose workflow does not run, by the reaper's own question; what is just changing may be counted."""
    what, lives = "agents without a workflow", Lives(client, settings.timings.grant_tick_seconds)
    try:
        async with asyncio.timeout(_SECONDS):
            owners = await lives.owners()
            async with db.transaction() as session:
                rows = {row.agent_id: row for row in await upkeep.living(session)}
            suspects = [row for row in rows.values() if owners.get(row.workflow_id) != row.agent_id]
            asked, found = suspects[:_MOST_ASKED], 0
            for row in asked:
                found += ownerless(row, await lives.owner(row.workflow_id), rows)
    except (Unavailable, RPCError, SQLAlchemyError, TimeoutError) as error:
        told = f"they cannot be counted ({type(error).__name__})"
        return Check(_RUNNING, what, Verdict.PROBLEM, told, "mend what is told above")
    if not found:
        return Check(_RUNNING, what, Verdict.OK, f"none of {len(rows)}")
    more = f" (of {len(asked)} looked at)" if len(suspects) > len(asked) else ""
    mend = "the reaper ends them within a minute; when it does not, look at the worker's log for reaper.row"
    return Check(_RUNNING, what, Verdict.PROBLEM, f"{found} of {len(rows)}{more}", mend)
