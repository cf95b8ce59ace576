"""The environment an agent is started with: names of the seed, kept to the letter, and Berth's own."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ModelAccess(BaseModel):
    """Where `run_task` finds its model: any OpenAI-compatible server."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base_url: str
    model: str = "default"
    api_key: SecretStr = SecretStr("none")


class BrowserSettings(BaseModel):
    """How an agent's browser is set up; part of a template."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: int = Field(1280, ge=320, le=3840)
    height: int = Field(800, ge=240, le=2160)
    start_url: str = Field("about:blank", max_length=4096)
    sandbox: bool = Field(True, description="False adds --no-sandbox: only where a container is the boundary")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="`host`, `host:port` or CIDR that the browser may reach although it is loopback or private",
    )
    flags: tuple[str, ...] = Field((), description="more Chromium switches")


# Required by the agent: AGENT_ID USER_ID PROJECT_ID MAIN_BACKEND_URL AGENT_TOKEN. The rest has defaults.
AGENT_ID = "AGENT_ID"
USER_ID = "USER_ID"
PROJECT_ID = "PROJECT_ID"
MAIN_BACKEND_URL = "MAIN_BACKEND_URL"
AGENT_TOKEN = "AGENT_TOKEN"  # noqa: S105  the variable's name, not a token
AGENT_ATTEMPT = "AGENT_ATTEMPT"
AGENT_PORT = "AGENT_PORT"
AGENT_HOST = "AGENT_HOST"  # address to listen on; 0.0.0.0 in a container, 127.0.0.1 as a local process
NOVNC_PORT = "NOVNC_PORT"
AGENT_PROFILE = "AGENT_PROFILE"  # browser profile folder, kept between lives
AGENT_WORK = "AGENT_WORK"  # scratch folder of this attempt: sockets, downloads, TMPDIR
AGENT_BROWSER = "AGENT_BROWSER"  # BrowserSettings as JSON
AGENT_NOVNC_WEB = "AGENT_NOVNC_WEB"  # folder of @novnc/novnc
AGENT_HEARTBEAT_SECONDS = "AGENT_HEARTBEAT_SECONDS"
AGENT_DOWNLOADS_MIB = "AGENT_DOWNLOADS_MIB"  # what it may hold of downloads; the oldest go
AGENT_OWN_NETWORK = "AGENT_OWN_NETWORK"  # 1: it is alone in a container, with network and files of its own
LLM_BASE_URL = "LLM_BASE_URL"
LLM_MODEL = "LLM_MODEL"
LLM_API_KEY = "LLM_API_KEY"
