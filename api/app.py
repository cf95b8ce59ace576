"""The API: `create_app` puts it together from given parts, `run_api` opens the true ones and serves it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from fastapi import Depends, FastAPI
from sqlalchemy import text
from temporalio.client import Client

from api import problems
from api.auth import open_verifier
from api.bodies import BodyLimit
from api.deps import Deps, Turnstile
from api.fresh import Fresh
from api.live.hub import Live, open_live
from api.metrics import Metrics
from api.openapi import TAGS, document_of, operation_id
from api.paths import decode_parameters
from api.requests import Requests
from api.routes import (
    account,
    admin,
    agents,
    artefacts,
    channel,
    commands,
    desktop,
    docs,
    live,
    logs,
    notices,
    scheduled,
    service,
    start,
    web,
)
from api.routes.service import SHOWN_SECONDS, VERSION, check
from api.server import listen, serve
from api.services.logs import LogReader
from api.services.start import Starter
from core.db.engine import Db
from core.runtime.registry import runtime_names
from core.settings import Settings
from temporal.client import connect
from temporal.lives import Lives
from temporal.places import open_runtimes
from temporal.tracing import Traces, tracing

_MOST_WAITING = 5000
_PROBE_SECONDS = timedelta(seconds=2)
_ROUTES = (
    start,
    scheduled,
    agents,
    logs,
    commands,
    artefacts,
    desktop,
    account,
    live,
    channel,
    admin,
    notices,
    service,
    docs,
    web,
)


def create_app(settings: Settings, deps: Deps, hub: Live | None = None, traces: Traces | None = None) -> FastAPI:
    """The app over `deps` and `hub`, which the caller opens and closes. Without `hub` nothing live can be asked."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await app.state.starter.close()

    app = FastAPI(
        title="Berth",
        version=VERSION,
        description="Gives every user a browser agent of their own, and owns that agent's whole life.",
        openapi_tags=TAGS,
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        docs_url=None,
        openapi_url=None,  # `api.routes.docs` has it
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(decode_parameters)],
        # Its own spans tell paths and queries, which may hold a ticket; ours are those of `api.spans`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.deps = deps
    app.state.settings = settings
    app.state.live = hub
    metrics = app.state.metrics = Metrics({} if hub is None else hub.intake.reopened)
    app.state.starter = Starter(deps, metrics.undecided)
    app.state.logs = LogReader(deps)
    app.state.leave = lambda: _leave(app)
    ready: Fresh[dict[str, str]] = Fresh(lambda: check(deps.probes), SHOWN_SECONDS)

    async def shown() -> bytes:
        metrics.answered(await ready.get())
        return await metrics.render(deps.db, settings)

    app.state.ready = ready
    app.state.shown = Fresh(shown, SHOWN_SECONDS)
    app.state.written = None  # what `api.routes.docs` serves, once somebody has asked for it
    # The one added last is the outermost.
    app.add_middleware(BodyLimit, verifier=deps.verifier)
    if traces is not None:
        from api.spans import Spans

        app.add_middleware(Spans, tracer=traces.tracer)
    app.add_middleware(Requests, metrics=app.state.metrics)
    problems.install(app)
    for module in _ROUTES:
        app.include_router(module.router)
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    return app


def _leave(app: FastAPI) -> None:
    """Answer those who wait for long: the server cuts off whoever is not answered seconds after it was told to stop."""
    app.state.logs.leave()
    if app.state.live is not None:
        app.state.live.calls.leave()


async def run_api(settings: Settings, *, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code.

    `ready_file` (default: `run/api.ready` in the data folder) holds the pid while it serves. Raises ValueError for
    settings that lack something, `Unavailable` (`port_taken`) when another program listens there.
    """
    verifier = open_verifier(settings.auth)
    if settings.database.url is None:
        raise ValueError("set BERTH_DATABASE__URL, or start everything with `berth up`")
    url = settings.database.url.get_secret_value()
    size = settings.database.pool_size
    async with AsyncExitStack() as stack:
        hosts = dict.fromkeys([settings.api.host, settings.api.agent_host or settings.api.host])
        listening = [stack.enter_context(listen(host, settings.api.port)) for host in hosts]
        db = await stack.enter_async_context(Db.open(url, application="api", pool_size=size))
        traces = await stack.enter_async_context(tracing(settings, "api"))
        client = await connect(settings, traces=traces)
        deps = Deps(
            settings=settings,
            db=db,
            lives=Lives(client, settings.timings.grant_tick_seconds),
            verifier=verifier,
            # All there are, for agents may be known whose runtime was taken out of the settings. Opening one asks
            # nobody; it is called only where a pool or an agent's row names it.
            runtimes=await stack.enter_async_context(open_runtimes(settings, set(runtime_names()))),
            probes={"database": lambda: _schema_answers(db), "temporal": lambda: _temporal_answers(client)},
            turnstile=Turnstile(size, _MOST_WAITING),
        )
        hub = await stack.enter_async_context(open_live(deps, url))
        file = ready_file or settings.data_dir / "run" / "api.ready"
        return await serve(create_app(settings, deps, hub, traces), listening, file, hub.background)


async def _schema_answers(db: Db) -> None:
    async with db.transaction() as session:
        # Also proves that the schema is there: an API in front of an empty database is not ready.
        await session.execute(text("SELECT 1 FROM agents LIMIT 1"))


async def _temporal_answers(client: Client) -> None:
    if not await client.service_client.check_health(timeout=_PROBE_SECONDS):
        raise ConnectionError("Temporal says that it does not serve")
