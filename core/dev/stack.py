"""The local stack: PostgreSQL, Temporal and Berth's own parts in one data folder, from one command."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core import launch
from core.dev.folder import DataFolder
from core.dev.parts import Parts
from core.dev.ports import Ports
from core.dev.postgres import Postgres
from core.dev.probe import announces, http_status
from core.dev.supervise import Part
from core.dev.temporal import Temporal
from core.domain.addresses import called

_MIGRATIONS = Path(__file__).parents[1] / "db" / "migrations"
_HOSTED = frozenset({"process", "memory"})  # run by `berth host`; the others have agents elsewhere, which are watched
# Makes Berth's own parts from the environment they are to have.
OwnParts = Callable[[Mapping[str, str]], Sequence[Part]]
_HOST_STOP_SECONDS = 45  # an agent has 30 s to end in order


@dataclass(frozen=True)
class StackOptions:
    """What to start. A port is where to look for a free one from; 0 means any."""

    data_dir: Path
    api_host: str = "127.0.0.1"
    api_port: int = 8000
    runtime: str = "process"
    database_url: str | None = field(default=None, repr=False)  # given: no PostgreSQL of our own
    temporal_address: str | None = None  # given: no Temporal of our own
    temporal_namespace: str = "default"
    search_attributes: Mapping[str, str] = field(default_factory=dict)  # name to type, for our own Temporal
    own_auth_secret: bool = True  # False: the settings have one, or name an issuer
    environment: Mapping[str, str] = field(default_factory=dict)  # more for Berth's own parts
    database_port: int = 15432
    temporal_port: int = 7233
    temporal_ui_port: int = 8233
    temporal_http_port: int = 7243
    uid_base: int = 209_990  # as root: PostgreSQL and Temporal run under this uid and the next

    def on_any_ports(self) -> "StackOptions":
        """The same on ports that nobody listens on."""
        return replace(self, api_port=0, database_port=0, temporal_port=0, temporal_ui_port=0, temporal_http_port=0)


class Stack:
    """One local stack. `stop` must be called after `start`, also after one that failed."""

    def __init__(
        self,
        options: StackOptions,
        announce: Callable[[str], None],
        own_parts: OwnParts | None = None,
    ) -> None:
        """`own_parts` puts others in the place of Berth's own parts."""
        self._options = options
        self._announce = announce
        self._own_parts = own_parts or self._berth
        self._folder: DataFolder | None = None
        self._parts: Parts | None = None
        self._what: dict[str, object] = {}
        self._ready = False

    @property
    def addresses(self) -> Mapping[str, object]:
        """`api dashboard temporal temporalUi database runtime`, as in stack.json; empty before `start`."""
        return self._what

    @property
    def pids(self) -> dict[str, int]:
        return self._parts.pids if self._parts else {}

    async def start(self) -> None:
        """Start everything and return when all of it answers. Raises `CannotStart` and `launch.CannotConfine`."""
        folder = self._folder = await asyncio.to_thread(DataFolder.open, self._options.data_dir)
        await asyncio.to_thread(folder.end_leftovers)
        schema = _Schema(folder.root / "postgres" / "berth_schema")
        parts = self._plan(folder, schema)
        self._parts = Parts(parts, folder.root / "logs", self._announce, self._pids_changed)
        await self._parts.start()
        if self._options.database_url is None:
            schema.note()
        self._ready = True
        self._pids_changed()

    async def stop(self) -> None:
        """Stop all parts in order and give the data folder back."""
        self._ready = False
        if self._parts is not None:
            await self._parts.stop()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _plan(self, folder: DataFolder, schema: "_Schema") -> list[Part]:
        options = self._options
        ports = Ports()
        parts: list[Part] = []
        accounts = [launch.Account(uid, uid) if os.geteuid() == 0 else None for uid in _two(options.uid_base)]

        def pick(wanted: int, what: str, host: str = "127.0.0.1") -> int:
            port = ports.pick(wanted, host)
            if wanted not in (0, port):
                self._announce(f"port {wanted} is taken: {what} is on {port}")
            return port

        api_port = pick(options.api_port, "the API", options.api_host)
        database, address, ui = options.database_url, options.temporal_address, None
        if database is None:
            postgres = Postgres(
                data=folder.root / "postgres",
                port=pick(options.database_port, "PostgreSQL"),
                password=folder.secret("database"),
                account=accounts[0],
            )
            database = postgres.url
            parts.append(postgres.part())
        if address is None:
            temporal = Temporal(
                folder=folder.root / "temporal",
                port=pick(options.temporal_port, "Temporal"),
                ui_port=pick(options.temporal_ui_port, "Temporal's Web UI"),
                http_port=pick(options.temporal_http_port, "Temporal's HTTP API"),
                namespace=options.temporal_namespace,
                search_attributes=options.search_attributes,
                account=accounts[1],
            )
            address, ui = temporal.address, temporal.ui_url
            parts.append(temporal.part())
        base = f"http://{called(options.api_host)}:{api_port}"
        self._what = {
            "api": base,
            "dashboard": f"{base}/",
            "temporal": address,
            "temporalUi": ui,
            "database": database,
            "runtime": options.runtime,
        }
        env = {
            **os.environ,
            **options.environment,
            "BERTH_DATA_DIR": str(folder.root),
            "BERTH_API__HOST": options.api_host,
            "BERTH_API__PORT": str(api_port),
            "BERTH_DATABASE__URL": database,
            "BERTH_TEMPORAL__ADDRESS": address,
            "BERTH_TEMPORAL__NAMESPACE": options.temporal_namespace,
            "BERTH_POOL__RUNTIME": options.runtime,
            "PYTHONUNBUFFERED": "1",
        }
        if options.own_auth_secret:
            env["BERTH_AUTH__SECRET"] = folder.secret("auth")
        # Migrating costs a second of imports, so it is left out where it is known to have been done.
        current = options.database_url is None and schema.is_current()
        return parts + [part for part in self._own_parts(env) if not (part.name == "migrate" and current)]

    def _berth(self, env: Mapping[str, str]) -> list[Part]:
        run = Path(env["BERTH_DATA_DIR"]) / "run"

        def part(name: str, after: Sequence[str], stop_seconds: float = 10) -> Part:
            file = run / f"{name}.ready"

            async def ready(pid: int) -> bool:
                if name == "api":
                    return await http_status(f"{self._what['api']}/ready") == 200
                return announces(file, pid)

            async def prepare() -> None:
                file.unlink(missing_ok=True)

            argv = [sys.executable, "-m", "api.cli", name]
            once = name == "migrate"
            return Part(name, argv, env, None if once else ready, after, prepare, stop_seconds=stop_seconds)

        own = [
            part("migrate", ["postgres"]),
            part("worker", ["postgres", "migrate", "temporal"]),
            part("api", ["postgres", "migrate", "temporal"]),
        ]
        if self._options.runtime in _HOSTED:
            own.append(part("host", [], _HOST_STOP_SECONDS))
        else:
            own.append(part("watch", ["postgres", "migrate", "temporal"]))
        return own

    def _pids_changed(self) -> None:
        if self._folder is None or self._parts is None:
            return
        try:
            self._folder.remember(self._parts.pids)
            if self._ready:
                self._folder.describe(self._what, self._parts.pids)
        except OSError as error:
            # The parts matter more than their description: they go on, and the next change writes it anew.
            self._announce(f"{self._folder.description} could not be written: {error.strerror}")


class _Schema:
    """Remembers, in the database's own folder, which migrations it has been through."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def is_current(self) -> bool:
        try:
            return self._note.read_text() == self._wanted()
        except OSError:
            return False

    def note(self) -> None:
        if not self.is_current():
            self._note.write_text(self._wanted())

    def _wanted(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(_MIGRATIONS.rglob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()


async def run_stack(
    options: StackOptions,
    announce: Callable[[str], None],
    own_parts: OwnParts | None = None,
    once_ready: Callable[[str], Coroutine[None, None, None]] | None = None,
) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second signal ends everything at once. For the main thread only.

    `announce` gets lines for a person; the one that begins with `ready` has the addresses. `once_ready` is called after
    it with the URL of the database. Returns 0 after an orderly stop. Raises `CannotStart` or `launch.CannotConfine`
    with one sentence when it cannot start; nothing runs then.
    """
    began = time.monotonic()
    stack = Stack(options, announce, own_parts)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask() -> None:
        asked.set()
        for number in _STOPS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _STOPS:
        loop.add_signal_handler(number, ask)
    waiting = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(stack.start())
    telling: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not asked.is_set():
            await starting
            at = stack.addresses
            ui = f"  temporal {at['temporalUi']}" if at["temporalUi"] else ""
            announce(f"ready  {at['dashboard']}  docs {at['api']}/docs{ui}  ({time.monotonic() - began:.1f} s)")
            if once_ready is not None:
                telling.append(asyncio.create_task(once_ready(str(at["database"]))))
            await asked.wait()
        announce("stopping")
    finally:
        under_way = [starting, waiting, *telling]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await stack.stop()
    return 0


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _two(base: int) -> tuple[int, int]:
    return base, base + 1
