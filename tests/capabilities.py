"""What this machine offers to tests: one probe a capability, asked once, answering what is missing."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import psutil

from k8s.cluster import cluster
from k8s.images import workshop

ROOT = Path(__file__).resolve().parent.parent
_PROBE_SECONDS = 20
CHROMIUM = ("/usr/lib/chromium/chromium", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


@cache
def missing(capability: str) -> str | None:
    """Why this machine lacks `capability`, in words for people; None when it has it. KeyError for an unknown name."""
    return PROBES[capability]()


def chromium_path() -> str | None:
    """The system's Chromium, which tests drive with `executable_path`; browsers are never downloaded."""
    given = os.environ.get("CHROMIUM")
    return next((path for path in ([given] if given else CHROMIUM) if os.access(path, os.X_OK)), None)


def own_address() -> str | None:
    """An address of this machine beside loopback: who connects to it comes from it."""
    found = (each for addresses in psutil.net_if_addrs().values() for each in addresses)
    ours = (each.address for each in found if each.family is socket.AF_INET)
    return next((address for address in ours if not ip_address(address).is_loopback), None)


def _address() -> str | None:
    return None if own_address() else "no address but those of loopback"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not started as root, so nothing can run under another user id"


def _chromium() -> str | None:
    return None if chromium_path() else "no Chromium (apt-get install chromium chromium-sandbox)"


def _desktop() -> str | None:
    return _programs("Xtigervnc", "matchbox-window-manager", "xauth")


def _agent() -> str | None:
    lacking = _desktop() or _chromium() or _programs("setpriv")
    if lacking:
        return lacking
    if not any((ROOT / ".venv-agent").glob("lib/python3.*/site-packages/browser_use")):
        return "no .venv-agent with browser-use (make setup)"
    return _novnc()


def _novnc() -> str | None:
    there = (ROOT / "node_modules/@novnc/novnc/core/rfb.js").is_file()
    return None if there else "no node_modules/@novnc/novnc (make setup, needs npm)"


def _cluster() -> str | None:
    return cluster.lacks()


def _images() -> str | None:
    return workshop.lacks() or _novnc()


def _mount_namespace() -> str | None:
    return _programs("unshare") or _runs("unshare", "--mount", "--propagation", "private", "true")


def _kubectl() -> str | None:
    return _programs("kubectl")


def _promtool() -> str | None:
    return _programs("promtool")


def _user_namespace() -> str | None:
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    return _programs("unshare", "setpriv") or _runs(*as_nobody, "unshare", "--user", "--map-root-user", "true")


def _memory_cgroup() -> str | None:
    """A child group with a memory limit can be made below our own, in version 2 or 1 of cgroups."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            parent, limit = Path("/sys/fs/cgroup/memory") / path.lstrip("/"), "memory.limit_in_bytes"
        elif controllers == "":
            parent, limit = Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max"
        else:
            continue
        child = parent / f"probe-{os.getpid()}"
        try:
            child.mkdir()
        except OSError:
            continue
        try:
            if os.access(child / limit, os.W_OK):
                return None
        finally:
            child.rmdir()
    return "no memory cgroup in which this user may make a group of its own"


def _programs(*names: str) -> str | None:
    absent = [name for name in names if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (make setup)" if absent else None


def _runs(*argv: str) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{argv[0]} does not run here: {error}"
    return None if done.returncode == 0 else f"{' '.join(argv)} is refused: {done.stderr.strip()}"


PROBES: dict[str, Callable[[], str | None]] = {
    "address": _address,
    "agent": _agent,
    "chromium": _chromium,
    "cluster": _cluster,
    "desktop": _desktop,
    "images": _images,
    "kubectl": _kubectl,
    "promtool": _promtool,
    "memory_cgroup": _memory_cgroup,
    "mount_namespace": _mount_namespace,
    "novnc": _novnc,
    "root": _root,
    "user_namespace": _user_namespace,
}
