"""The agent's program on this machine: its interpreter, a copy of its code that any account can read, its environment.

The copy (a few hundred kB, renewed when the code changes) lets agents run although the checkout lies in a folder that
is closed to them, and comes compiled, which their own account could not keep.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from core import launch
from core.domain import environment as env
from core.errors import RuntimePermanent
from core.runtime.base import AgentSpec

_log = structlog.get_logger()
_CHECKOUT = Path(__file__).resolve().parents[2]
# What the agent imports of ours; import contracts hold it to that.
_CODE = ("agent_image", "core/__init__.py", "core/ids.py", "core/launch.py", "core/domain")
_MODULE = "agent_image.agent"
_COMPILE_SECONDS = 60
_PASSED_ON = ("CHROMIUM", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", env.AGENT_NOVNC_WEB)


@dataclass(frozen=True)
class Program:
    """How to start an agent here, whatever its account."""

    python: Path
    code: Path
    novnc: Path | None

    @property
    def argv(self) -> list[str]:
        return [str(self.python), "-m", _MODULE]

    def reach(self) -> list[Path]:
        """What an account must be able to enter."""
        found = [self.code, *launch.interpreter_paths(self.python)]
        return [*found, self.novnc] if self.novnc is not None else found

    def environment(
        self, spec: AgentSpec, *, profile: Path, work: Path, api_port: int, novnc_port: int
    ) -> dict[str, str]:
        """Everything the agent sees: nothing of ours is inherited that is not named here."""
        browser = spec.template.browser.model_dump_json()
        found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        found |= {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work),
            "TMPDIR": str(work / "tmp"),
            "PYTHONPATH": str(self.code),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.novnc is not None:
            found[env.AGENT_NOVNC_WEB] = str(self.novnc)
        found |= spec.template.environment
        if spec.model is not None:
            found[env.LLM_BASE_URL] = spec.model.base_url
            found[env.LLM_MODEL] = spec.model.model
            found[env.LLM_API_KEY] = spec.model.api_key.get_secret_value()
        return found | {
            env.AGENT_ID: spec.agent_id,
            env.AGENT_ATTEMPT: str(spec.attempt),
            env.USER_ID: spec.user_id,
            env.PROJECT_ID: spec.project_id,
            env.MAIN_BACKEND_URL: spec.backend_url,
            env.AGENT_TOKEN: spec.token.get_secret_value(),
            env.AGENT_HOST: "127.0.0.1",
            env.AGENT_PORT: str(api_port),
            env.NOVNC_PORT: str(novnc_port),
            env.AGENT_PROFILE: str(profile),
            env.AGENT_WORK: str(work),
            env.AGENT_BROWSER: browser,
            env.AGENT_HEARTBEAT_SECONDS: str(spec.heartbeat_seconds),
        }


def find(folder: Path, python: Path | None) -> Program:
    """The agent's program with its code copied into `folder`. Raises `RuntimePermanent` when it is not installed."""
    found = _python(python)
    novnc = _CHECKOUT / "node_modules" / "@novnc" / "novnc"
    return Program(python=found, code=_copy(folder, found), novnc=novnc if novnc.is_dir() else None)


def _python(given: Path | None) -> Path:
    if given is not None:
        candidates = [given]
    else:
        beside = Path(sys.prefix).parent / ".venv-agent" / "bin" / "python"
        candidates = [_CHECKOUT / ".venv-agent" / "bin" / "python", beside]
    for path in candidates:
        if os.access(path, os.X_OK):
            return path.absolute()
    raise RuntimePermanent(
        f"the agent's Python is not at {candidates[0]}; run `make setup`, or set BERTH_HOST__AGENT_PYTHON"
    )


def _copy(folder: Path, python: Path) -> Path:
    files = sorted(_files())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path}\0".encode() + hashlib.sha256((_CHECKOUT / path).read_bytes()).digest())
    made = folder / f"agent-{digest.hexdigest()[:16]}"
    if made.is_dir():
        return made
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)
    for stale in folder.iterdir():
        shutil.rmtree(stale)
    fresh = folder / "fresh"
    for path in files:
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_CHECKOUT / path, place)
    _compile(fresh, made, python)
    for root, _, names in os.walk(fresh):
        os.chmod(root, 0o755)  # noqa: S103  agents of any account read it
        for name in names:
            os.chmod(os.path.join(root, name), 0o644)
    fresh.rename(made)
    return made


def _compile(fresh: Path, made: Path, python: Path) -> None:
    """Only for speed, so a failure is told and borne."""
    argv = [str(python), "-m", "compileall", "-q", "-s", str(fresh), "-p", str(made), str(fresh)]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_COMPILE_SECONDS, cwd="/", env={})
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("agent_code.not_compiled", error=str(error))


def _files() -> list[Path]:
    found: list[Path] = []
    for name in _CODE:
        path = _CHECKOUT / name
        inside = path.rglob("*") if path.is_dir() else [path]
        found += [file.relative_to(_CHECKOUT) for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return found
