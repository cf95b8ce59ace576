"""What a cluster of our own needs of this machine."""

import os
import shutil
from pathlib import Path

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24
_PROGRAMS = ("containerd", "ctr", "runc", "nft", "ip", "nsenter", "unshare", "setpriv")
_PLUGINS = ("bridge", "host-local", "loopback")
_PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))


def lacks() -> str | None:
    """Why no cluster can be run here, in one line; None when one can. Go is not asked for: see `binaries.lacks`."""
    if not Path("/proc/self/cgroup").exists():
        return "not Linux, or no /proc"
    if os.geteuid() != 0:
        return "not started as root, which containers, bridges and mounts need"
    if not has_capability(_CAP_SYS_ADMIN):
        return "this root lacks CAP_SYS_ADMIN (an unprivileged container?), so nothing can be mounted"
    if absent := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(absent)} (make setup)"
    if plugins() is None:
        return "no CNI plugins bridge, host-local and loopback (Debian: apt-get install containernetworking-plugins)"
    if not _writable_cgroups():
        return "the cgroup file system is mounted read-only or not at all, so no container can be limited"
    return None


def plugins() -> Path | None:
    """The folder of the CNI plugins that nodes use."""
    return next(
        (folder for folder in _PLUGIN_FOLDERS if all(os.access(folder / name, os.X_OK) for name in _PLUGINS)), None
    )


def may_protect_from_oom() -> bool:
    """Whether an oom_score_adj can be lowered here, which containerd does for sandboxes unless told not to."""
    return has_capability(_CAP_SYS_RESOURCE)


def resolver() -> Path:
    """The list of name servers that also works from another network namespace, where there is one."""
    for path in (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")):
        if path.is_file():
            return path
    return Path("/dev/null")


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(held >> number & 1)


def _writable_cgroups() -> bool:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [fields for fields in mounts if fields[2] in {"cgroup", "cgroup2"}]
    return bool(found) and all("rw" in fields[3].split(",") for fields in found)
