"""The composition root of `berth watch`: watches the runtimes that many processes share, one such process for all."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from activities.ports import RUNTIME_ERRORS
from core.db.engine import Db
from core.runtime.base import SharedRuntime
from core.settings import Settings, Watch
from temporal.lives import Lives
from temporal.metrics import CODES
from temporal.places import open_runtimes, places_to_serve
from temporal.process import announce, not_ready_yet, told_to_stop, until, when_there
from temporal.watcher import Watcher

log = structlog.get_logger()
Work = Callable[[], Awaitable[None]]


async def run_watch(settings: Settings, *, ready_file: Path | None = None) -> int:
    """Watch, or stand by for who does, until SIGTERM or SIGINT. Returns the exit code."""
    stop = told_to_stop()
    not_ready_yet(ready_file)
    url = settings.database.url
    if url is None:
        raise ValueError("set BERTH_DATABASE__URL, or start everything with `berth up`")
    async with (
        Db.open(url.get_secret_value(), application="watch", pool_size=2, ask_first=False) as db,
        contextlib.AsyncExitStack() as opened,
    ):
        places = await places_to_serve(db, settings)
        runtimes = await opened.enter_async_context(open_runtimes(settings, set(places.values())))
        shared = {name: runtime for name, runtime in runtimes.items() if isinstance(runtime, SharedRuntime)}
        if not shared:
            log.warning("watch.nothing_to_do", runtimes=sorted(runtimes), why="workers watch these themselves")
        client = await when_there(settings, stop)
        if client is None:
            return 0
        lives = Lives(client, settings.timings.grant_tick_seconds)
        numbers = Numbers(shared)
        with served(numbers, settings.watch):
            background = []
            for name, runtime in shared.items():
                work = numbers.counted(name, Watcher(name, runtimes[name], db, lives, numbers).run)
                background.append(asyncio.create_task(runtime.lead(work), name=f"watch {name}"))
            if ready_file is not None:
                await asyncio.to_thread(announce, ready_file)
            log.info("watch.ready", runtimes=sorted(shared))
            code = await until(stop, background)
            if ready_file is not None:
                await asyncio.to_thread(ready_file.unlink, missing_ok=True)
        return code


class Numbers:
    """What one process of the watch has to tell, in Prometheus' words."""

    def __init__(self, shared: Mapping[str, SharedRuntime]) -> None:
        self.registry = CollectorRegistry()
        self._leading: set[str] = set()
        self._turns = Counter(
            "berth_watch_turns", "Times this process became the one that watches", ["runtime"], registry=self.registry
        )
        self._leads = Gauge("berth_watch_leads", "1 while it is that", ["runtime"], registry=self.registry)
        age = Gauge(
            "berth_watch_age_seconds",
            "Since the runtime was last heard of; NaN while another process watches",
            ["runtime"],
            registry=self.registry,
        )
        self._errors = Counter(
            RUNTIME_ERRORS.removesuffix("_total"),
            "Calls of a runtime that failed, by the code of the error",
            ["code"],
            registry=self.registry,
        )
        for code in CODES:
            self._errors.labels(code)
        for name, runtime in shared.items():
            self._leads.labels(name).set(0)
            age.labels(name).set_function(partial(self._age, name, runtime))

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """As `activities.ports.Meter`, of the one counter that a watcher has."""
        if name == RUNTIME_ERRORS:
            self._errors.labels(**labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        pass

    def counted(self, name: str, work: Work) -> Work:
        """The same work, counted as leading while it is done."""

        async def leading() -> None:
            self._turns.labels(name).inc()
            self._leading.add(name)
            try:
                with self._leads.labels(name).track_inprogress():
                    await work()
            finally:
                self._leading.discard(name)

        return leading

    def _age(self, name: str, runtime: SharedRuntime) -> float:
        age = runtime.watch_age() if name in self._leading else None
        return math.nan if age is None else age


@contextlib.contextmanager
def served(numbers: Numbers, settings: Watch) -> Iterator[None]:
    """Serve `/metrics` where the settings say so."""
    if settings.metrics_port is None:
        yield
        return
    server, thread = start_http_server(settings.metrics_port, settings.metrics_host, numbers.registry)
    log.info("metrics.served", port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
