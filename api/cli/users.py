"""Users, from the command line: `berth token`."""

import asyncio
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import config, show
from api.cli.faults import Unreachable, WrongUse
from api.cli.local import LocalStack

if TYPE_CHECKING:
    from core.settings import Auth, Settings

_CONNECT_SECONDS = 10


class TierName(StrEnum):
    FREE = "free"
    BASIC = "basic"
    PREMIUM = "premium"
    ENTERPRISE = "enterprise"


def add_to(app: typer.Typer) -> None:
    app.command()(token)


def token(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    tier: Annotated[TierName | None, typer.Option(help="Their tier. Of a new user: free.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The token may do what administrators may.")] = False,
    project: Annotated[list[str] | None, typer.Option(help="A project they belong to; may be repeated.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 366, help="How long the token lasts.")] = 24,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Of the local stack.")] = None,
) -> None:
    """Make or update a user and their projects; print a token.

    The token alone goes to standard output. What is not given stays as it is; projects are added.
    """
    from core.ids import check_id

    check_id(user, "USER")
    projects = list(dict.fromkeys(check_id(name, "--project") for name in project or ()))
    settings = config.load(**({"data_dir": data_dir} if data_dir is not None else {}))
    stack = LocalStack(settings.data_dir)
    database, auth = _database(settings, stack), _auth(settings, stack)
    asyncio.run(_provision(database, user, tier, projects))
    if auth is None:
        show.note(f"{user} is known now; their tokens come from {settings.auth.jwks_url}")
        return
    from api.auth import Role, issue

    role = Role.ADMIN if admin else Role.USER
    show.line(issue(auth, user, role, datetime.now(UTC), timedelta(hours=hours)))


def _database(settings: "Settings", stack: LocalStack) -> str:
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    found = stack.described("database")
    if found is None:
        raise Unreachable(
            f"no local stack runs in {settings.data_dir}", "start one with: berth up; or set BERTH_DATABASE__URL"
        )
    return found


def _auth(settings: "Settings", stack: LocalStack) -> "Auth | None":
    """What tokens are signed with; None where an issuer makes them."""
    if settings.auth.jwks_url is not None:
        return None
    if settings.auth.secret is not None:
        return settings.auth
    secret = stack.secret()
    if secret is None:
        raise WrongUse(
            f"BERTH_AUTH__SECRET is not set, and {settings.data_dir} holds no secret of a local stack",
            "give the API's secret; or start a stack with: berth up",
        )
    return settings.auth.model_copy(update={"secret": secret})


async def _provision(url: str, user: str, tier: TierName | None, projects: list[str]) -> None:
    """Idempotent: what is not given stays as it is."""
    from sqlalchemy.exc import ArgumentError, DBAPIError

    from core.db.engine import Db
    from core.db.repositories import projects as project_rows
    from core.db.repositories import users

    changes = {} if tier is None else {"tier": tier.value}
    try:
        async with (
            asyncio.timeout(_CONNECT_SECONDS),
            Db.open(url, application="token", pool_size=1) as db,
            db.transaction() as session,
        ):
            await users.put(session, user, **changes)
            for name in projects:
                await project_rows.add(session, name, [user])
    except ArgumentError as error:
        raise WrongUse("BERTH_DATABASE__URL is not an address of a database") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state == "42P01":
            raise WrongUse("the database has no tables of Berth", "run: berth migrate") from error
        raise Unreachable(f"the database refuses: {error.orig}") from error
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"the database does not answer: {error or 'no answer in time'}") from error
