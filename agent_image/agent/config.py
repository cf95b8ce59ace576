"""What the agent was told by its environment, read once."""

import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from core.domain import environment as env
from core.domain.environment import BrowserSettings, ModelAccess

CHECKOUT = Path(__file__).resolve().parents[2]
# A unix socket's path must fit into 107 bytes (sun_path), whatever the work folder is called.
_SOCKET_PATH_MAX = 100


class BadEnvironment(Exception):
    """The environment does not describe an agent; the message is one line for a person."""


@dataclass(frozen=True)
class Config:
    """Everything an agent process knows from outside. `token` and the model's key are never logged."""

    agent_id: str
    user_id: str
    project_id: str
    attempt: int
    backend_url: str
    token: str = field(repr=False)
    host: str
    api_port: int
    novnc_port: int
    profile: Path
    work: Path
    browser: BrowserSettings
    novnc_web: Path
    heartbeat_seconds: float
    own_network: bool
    downloads_mib: int
    model: ModelAccess | None

    def socket_folder(self) -> Path:
        """A private folder for unix sockets, inside the work folder where the path fits."""
        if len(str(self.work)) <= _SOCKET_PATH_MAX - len("/vnc.sock"):
            return self.work
        return Path(tempfile.mkdtemp(prefix="agent-", dir="/tmp"))


def read(environ: MutableMapping[str, str]) -> Config:
    """The configuration, or `BadEnvironment`. Takes the secrets out of `environ`, so that no child inherits them."""
    backend = _required(environ, env.MAIN_BACKEND_URL)
    if urlsplit(backend).scheme not in {"http", "https"} or not urlsplit(backend).hostname:
        raise BadEnvironment(f"{env.MAIN_BACKEND_URL} must be an http:// or https:// address, not {backend!r}")
    return Config(
        agent_id=_required(environ, env.AGENT_ID),
        user_id=_required(environ, env.USER_ID),
        project_id=_required(environ, env.PROJECT_ID),
        attempt=_number(environ, env.AGENT_ATTEMPT, "1", 1, 1 << 31),
        backend_url=backend.rstrip("/"),
        token=_required(environ, env.AGENT_TOKEN, secret=True),
        host=environ.get(env.AGENT_HOST) or "127.0.0.1",
        api_port=_number(environ, env.AGENT_PORT, "8080", 0, 65535),
        novnc_port=_number(environ, env.NOVNC_PORT, "6080", 0, 65535),
        profile=Path(environ.get(env.AGENT_PROFILE) or "/profile"),
        work=Path(environ.get(env.AGENT_WORK) or "/tmp/agent"),  # noqa: S108  a container's own /tmp
        browser=_browser(environ.get(env.AGENT_BROWSER) or "{}"),
        novnc_web=Path(environ.get(env.AGENT_NOVNC_WEB) or CHECKOUT / "node_modules" / "@novnc" / "novnc"),
        heartbeat_seconds=_seconds(environ, env.AGENT_HEARTBEAT_SECONDS, "30"),
        own_network=environ.get(env.AGENT_OWN_NETWORK) == "1",
        downloads_mib=_number(environ, env.AGENT_DOWNLOADS_MIB, "512", 1, 1 << 20),
        model=_model(environ),
    )


def _required(environ: MutableMapping[str, str], name: str, *, secret: bool = False) -> str:
    value = environ.pop(name, "") if secret else environ.get(name, "")
    if not value:
        raise BadEnvironment(f"{name} is not set: the agent needs it to start")
    return value


def _number(environ: MutableMapping[str, str], name: str, default: str, low: int, high: int) -> int:
    text = environ.get(name) or default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise BadEnvironment(f"{name} must be a number from {low} to {high}, not {text!r}")
    return int(text)


def _seconds(environ: MutableMapping[str, str], name: str, default: str) -> float:
    text = environ.get(name) or default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 86400:
        raise BadEnvironment(f"{name} must be seconds from 0.01 to 86400, not {text!r}")
    return value


def _browser(text: str) -> BrowserSettings:
    try:
        return BrowserSettings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BadEnvironment(f"{env.AGENT_BROWSER} is wrong at {where}: {first['msg']}") from None


def _model(environ: MutableMapping[str, str]) -> ModelAccess | None:
    base_url, key = environ.get(env.LLM_BASE_URL), environ.pop(env.LLM_API_KEY, "")
    if not base_url:
        return None
    return ModelAccess(
        base_url=base_url, model=environ.get(env.LLM_MODEL) or "default", api_key=SecretStr(key or "none")
    )
