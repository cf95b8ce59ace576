"""What an agent and Berth say to each other: channel messages, commands, exit codes, environment names.

Both sides import this module, so it needs nothing but pydantic. Names on the wire are camelCase (API contract 4).
The agent counts its messages in `seq` from 1 for each attempt; Berth acknowledges a `seq` once its effect is durable,
and after a break the agent sends again everything above the last acknowledged one.
"""

import json
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

MAX_MESSAGE_BYTES = 1 << 20
MAX_ARTEFACT_BYTES = 50 << 20
# Characters of a sentence that an agent says of something.
MAX_DETAIL = 2000
# The type of the problem with which Berth answers a token that is unknown or whose attempt is over, and nobody else.
TOKEN_REFUSED = "urn:berth:problem:unauthenticated"  # noqa: S105  the name of a refusal

ZIP = "application/zip"


def saved_work_id(attempt: int) -> str:
    """Under which "command" an attempt stores the work it saved; with a space, which no user's Idempotency-Key has."""
    return f"saved {attempt}"


def to_json(value: Any) -> str:
    """`value` as text that every reader of JSON takes; what JSON does not know is written as its `str`.

    A page's script can hold half a character (a lone surrogate). Python writes it down, and a strict reader, as
    Berth's is, refuses all of the message for it: U+FFFD takes its place.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mended(raw: bytes) -> bytes:
    """JSON of any writer as `to_json` writes it. Raises ValueError for what is none."""
    try:
        return to_json(json.loads(raw)).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


class AgentExit(IntEnum):
    """How an agent's main process ends, so that a runtime can tell why (API contract 4)."""

    ORDERED = 0
    PART_CRASHED = 75
    PART_OUT_OF_MEMORY = 76
    CANNOT_START = 78
    KILLED = 137
    TOLD_BY_HOST = 143


class CommandName(StrEnum):
    NAVIGATE = "navigate"
    CLICK = "click"
    INPUT = "input"
    SELECT = "select"
    SCROLL = "scroll"
    SCREENSHOT = "screenshot"
    PDF = "pdf"
    EXTRACT = "extract"
    STATE = "state"
    RUN_TASK = "run_task"
    STOP_TASK = "stop_task"


# Their result is the `Artefact` that the agent stored for them.
MAKE_ARTEFACTS = frozenset({CommandName.SCREENSHOT, CommandName.PDF})


class CommandFault(StrEnum):
    """Why a command has no result; `detail` beside it is a sentence for people."""

    UNKNOWN_COMMAND = "unknown_command"
    INVALID_PARAMETERS = "invalid_parameters"
    NOT_FOUND = "element_not_found"
    REFUSED_ADDRESS = "address_refused"
    BROWSER_FAILED = "browser_failed"
    PAGE_OUT_OF_MEMORY = "page_oom"
    NO_MODEL = "no_model"
    TASK_FAILED = "task_failed"
    BUSY = "busy"
    CANCELLED = "cancelled"
    TIMED_OUT = "command_timeout"
    RESULT_TOO_LARGE = "result_too_large"
    NOT_STORED = "artefact_not_stored"
    SHUTTING_DOWN = "shutting_down"


# Status of an agent's message: another browser has taken the place of one that ended. `data.end` is how it ended.
BROWSER_REOPENED = "browser_reopened"


class BrowserEnd(StrEnum):
    """How a browser ended under an agent that lives on."""

    CLOSED = "closed_by_user"
    CRASHED = "crash"
    OUT_OF_MEMORY = "out_of_memory"


class Wire(BaseModel):
    """Base of everything on the wire: camelCase names, unknown fields ignored so that either side may be newer."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


# ---- commands ------------------------------------------------------------------------------------------------------


class Parameters(BaseModel):
    """Base of command parameters; an unknown field is an error of the caller."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class Element(Parameters):
    """An element by CSS `selector`, or by the number that `state` last gave it."""

    selector: str | None = Field(None, max_length=4096)
    index: int | None = Field(None, ge=0)


class Navigate(Parameters):
    url: str = Field(max_length=8192)
    new_tab: bool = False


class Click(Element):
    pass


class Input(Element):
    text: str = Field(max_length=65536)
    clear: bool = True
    submit: bool = False


class Select(Element):
    option: str = Field(max_length=4096, description="the option's text or value")


class Scroll(Parameters):
    selector: str | None = Field(None, max_length=4096)
    by: int = Field(600, ge=-100_000, le=100_000, description="CSS pixels, negative is up")


class Screenshot(Parameters):
    full_page: bool = False


class Pdf(Parameters):
    landscape: bool = False
    background: bool = True


class Extract(Parameters):
    """Text (or an attribute) of the elements that match, at most `limit`; without a selector the page's text."""

    selector: str | None = Field(None, max_length=4096)
    attribute: str | None = Field(None, max_length=256)
    limit: int = Field(100, ge=1, le=1000)


class State(Parameters):
    """URL, title, tabs and the numbered elements a person could act on."""


class RunTask(Parameters):
    """One browser-use task; `state`, `screenshot` and `stop_task` may run beside it, other commands answer `busy`."""

    task: str = Field(max_length=65536)
    max_steps: int = Field(25, ge=1, le=200)


class StopTask(Parameters):
    pass


COMMAND_PARAMETERS: dict[CommandName, type[Parameters]] = {
    CommandName.NAVIGATE: Navigate,
    CommandName.CLICK: Click,
    CommandName.INPUT: Input,
    CommandName.SELECT: Select,
    CommandName.SCROLL: Scroll,
    CommandName.SCREENSHOT: Screenshot,
    CommandName.PDF: Pdf,
    CommandName.EXTRACT: Extract,
    CommandName.STATE: State,
    CommandName.RUN_TASK: RunTask,
    CommandName.STOP_TASK: StopTask,
}


class Artefact(Wire):
    """What the agent has stored with `PUT /agent-artefacts/{commandId}`: a picture, a document, or its saved work."""

    artefact_id: str
    content_type: str
    bytes: int
    url: str


class SavedWork(Artefact):
    """What one attempt saved of its work, as its user is told of it."""

    attempt: int


class ExecuteRequest(Wire):
    """Body of the agent's own `POST /execute`, and the core of a channel `execute`."""

    model_config = ConfigDict(extra="forbid")
    command: CommandName
    parameters: dict[str, Any] = {}
    command_id: str | None = None
    timeout_seconds: float = Field(60, gt=0, le=3600)


# ---- channel, up ---------------------------------------------------------------------------------------------------


class UpMessage(Wire):
    agent_id: str
    seq: int = Field(ge=1)
    at: AwareDatetime


class AgentOnline(UpMessage):
    """First message on every socket. `seq` is the next number the agent will use, nothing is stored for it."""

    type: Literal["agent_online"] = "agent_online"
    attempt: int
    version: str = ""


class Ready(UpMessage):
    """The agent is usable: CDP answers and the VNC socket opens. Sent once an attempt."""

    type: Literal["ready"] = "ready"
    seconds: float = Field(description="from the start of the agent's process")


class AgentStatus(UpMessage):
    """Something worth knowing: a browser replaced, a page killed for memory, a task begun or over, a viewer at work."""

    type: Literal["agent_status"] = "agent_status"
    status: str = Field(max_length=64)
    detail: str = Field("", max_length=MAX_DETAIL)
    data: dict[str, Any] = {}


class CommandResult(UpMessage):
    """A command's end: exactly one of `result` and `fault`. The same commandId is never run twice."""

    type: Literal["command_result"] = "command_result"
    command_id: str
    result: dict[str, Any] | None = None
    fault: CommandFault | None = None
    detail: str = Field("", max_length=MAX_DETAIL)


class Health(Wire):
    """Also the body of the agent's `GET /health`: whole with its token or on its own machine, else `status` alone.

    `memory` is bytes, `uptime` seconds.

    `network` counts the bytes that went over its own network, both ways; null: it shares that of its machine. So do
    `cpuSeconds` and `peakMemoryBytes` count what its own container has used since it began.
    """

    status: Literal["starting", "healthy", "unhealthy", "stopping"]
    uptime: float = Field(ge=0, lt=1 << 63, allow_inf_nan=False)
    memory: int = Field(ge=0, lt=1 << 63)
    network: int | None = Field(None, ge=0, lt=1 << 63)
    cpu_seconds: float | None = Field(None, ge=0, lt=1 << 63, allow_inf_nan=False)
    peak_memory_bytes: int | None = Field(None, ge=0, lt=1 << 63)
    browser_active: bool
    channel: Literal["connecting", "open", "refused"]
    task_running: bool = False
    viewers: int = Field(0, ge=0, lt=1 << 31)
    # Cut and not refused: an agent of an earlier release may say more, and is no less healthy for it.
    detail: Annotated[str, AfterValidator(lambda said: said[:MAX_DETAIL])] = ""


class Heartbeat(UpMessage):
    """Every 30 s with the agent's health. Not stored one by one, so not sent again after a break.

    Its `seq` is, as in `agent_online`, the next number the agent will use: it takes none and needs no acknowledgement.
    """

    type: Literal["heartbeat"] = "heartbeat"
    health: Health


Up = Annotated[AgentOnline | Ready | AgentStatus | CommandResult | Heartbeat, Field(discriminator="type")]
UP: TypeAdapter[AgentOnline | Ready | AgentStatus | CommandResult | Heartbeat] = TypeAdapter(Up)


# ---- channel, down -------------------------------------------------------------------------------------------------


class Execute(Wire):
    type: Literal["execute"] = "execute"
    command_id: str
    command: str
    parameters: dict[str, Any] = {}
    timeout_seconds: float


class Cancel(Wire):
    type: Literal["cancel"] = "cancel"
    command_id: str


class GracefulShutdown(Wire):
    """Save and leave with exit code 0; after `within_seconds` the runtime kills."""

    type: Literal["graceful_shutdown"] = "graceful_shutdown"
    reason: str
    within_seconds: float


class Ack(Wire):
    """Everything up to `seq` is durable. The first one after `agent_online` tells where to resume."""

    type: Literal["ack"] = "ack"
    seq: int


Down = Annotated[Execute | Cancel | GracefulShutdown | Ack, Field(discriminator="type")]
DOWN: TypeAdapter[Execute | Cancel | GracefulShutdown | Ack] = TypeAdapter(Down)


# ---- HTTP from the agent -------------------------------------------------------------------------------------------


class RegisterBody(Wire):
    """Body of `POST /agent-register`, for agents that cannot hold a socket yet; it does what `agent_online` does."""

    agent_id: str
    attempt: int = 1
    version: str = ""


class HeartbeatBody(Wire):
    agent_id: str
    health: Health


class Exit(Wire):
    """The line an agent leaves when it ends: in a pod's termination log, in its scratch folder on a host."""

    code: AgentExit
    reason: str
    at: datetime
