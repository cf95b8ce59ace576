"""A cluster made by kind, where that and a docker that answers are there."""

import json
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from core.dev.failure import CannotStart

_ASK_SECONDS = 10
_CREATE_SECONDS = 600
_SECCOMP = Path(__file__).resolve().parent.parent / "seccomp" / "agent.json"
_ON_NODE = "/var/lib/kubelet/seccomp"


def usable() -> bool:
    """Whether `kind` is installed and docker answers."""
    return shutil.which("kind") is not None and shutil.which("docker") is not None and _docker_answers()


def up(folder: Path, nodes: int, announce: Callable[[str], None]) -> Path:
    """Create the cluster of `folder`, or take the one that is there; its kubeconfig. Raises `CannotStart`."""
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = (folder / "kubeconfig").resolve()
    name = _name(folder)
    if name not in _run("kind", "get", "clusters").split():
        announce(f"kind creates {name}")
        roles = [{"role": "control-plane"}, *({"role": "worker"} for _ in range(nodes - 1))]
        config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": roles}
        _run("kind", "create", "cluster", "--name", name, "--wait", "120s", "--config", "-", stdin=json.dumps(config))
    _install_seccomp(name)
    kubeconfig.write_text(_run("kind", "get", "kubeconfig", "--name", name))
    kubeconfig.chmod(0o600)
    return kubeconfig


def down(folder: Path, announce: Callable[[str], None]) -> None:
    """Delete the cluster of `folder` if kind has one."""
    if usable() and _name(folder) in _run("kind", "get", "clusters").split():
        _run("kind", "delete", "cluster", "--name", _name(folder))
        (folder / "kubeconfig").unlink(missing_ok=True)
        announce(f"kind deleted {_name(folder)}")


def _install_seccomp(name: str) -> None:
    """Bring agents' profile to the nodes of cluster `name`: without it none of them starts there."""
    for node in _run("kind", "get", "nodes", "--name", name).split():
        _run("docker", "exec", node, "mkdir", "-p", _ON_NODE)
        _run("docker", "cp", str(_SECCOMP), f"{node}:{_ON_NODE}/{_SECCOMP.name}")


def _name(folder: Path) -> str:
    """One name a folder, so that two checkouts have two clusters."""
    return f"berth-{zlib.crc32(str(folder.resolve()).encode()):08x}"


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=_ASK_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=_CREATE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"{' '.join(argv)} failed: {error}") from error
    if done.returncode:
        raise CannotStart(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout
