"""Everything that can be set, read once in a composition root and passed down.

Environment variables `BERTH_A__B` win over the file `berth.yaml` (or the one `BERTH_CONFIG` names).
"""

import os
from datetime import timedelta
from email.utils import parseaddr
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from core.domain.addresses import called
from core.domain.admission import Rules
from core.domain.environment import ModelAccess
from core.domain.notices import Channel, Patience
from core.domain.templates import Pool, Template, Templates
from core.domain.thresholds import Thresholds
from core.domain.tiers import TierLimits
from core.domain.timings import SetTimings, Timings
from core.domain.webhooks import MAKE_ONE, keys_of

DEFAULT_POOL = "default"
_SAMPLES = frozenset({"secret", "changeme", "change-me", "change_me", "password", "sample", "example", "test", "dev"})


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Api(Group):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public_url: str | None = Field(None, description="for people: links; default is what the API listens on")
    agent_host: str | None = Field(None, description="one more address to listen on, where agents can reach us")
    agent_url: str | None = Field(None, description="their MAIN_BACKEND_URL; default is what they can reach")


class Database(Group):
    url: SecretStr | None = Field(None, description="postgresql://...; unset: the local stack starts its own")
    pool_size: int = Field(10, ge=1, le=200)


class Temporal(Group):
    address: str | None = Field(None, description="host:port; unset: the local stack starts its own")
    namespace: str = "default"


class Versioning(StrEnum):
    """What a running life does when another release becomes the current one."""

    PINNED = "pinned"  # its run stays with the workers it began with; the next one goes to those that are current
    AUTO_UPGRADE = "auto_upgrade"  # it goes on with those that are current from its next step


class Worker(Group):
    """The part `berth worker`. With a `build_id` lives are kept apart by release, see docs/upgrades.md."""

    deployment: str = Field("berth", pattern=r"^[A-Za-z0-9_-]{1,100}$")
    build_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,48}[A-Za-z0-9])?$",
        description="such as 0-2-0; unset: workers have no versions, and each goes on with every life",
    )
    versioning: Versioning = Versioning.PINNED
    metrics_host: str = Field("127.0.0.1", description="an IP address, on which its metrics are served")
    metrics_port: int | None = Field(None, ge=1, le=65535, description="unset: its metrics are not served")

    @field_validator("metrics_host")
    @classmethod
    def _address(cls, value: str) -> str:
        return str(ip_address(value))

    def metrics_address(self) -> str:
        host = f"[{self.metrics_host}]" if ":" in self.metrics_host else self.metrics_host
        return f"{host}:{self.metrics_port}"


class Auth(Group):
    """Who may call: HS256 with our own secret, or tokens of an issuer whose keys are at `jwks_url`."""

    secret: SecretStr | None = None
    jwks_url: str | None = None
    audience: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Auth":
        if self.secret is not None:
            value = self.secret.get_secret_value()
            if value.lower() in _SAMPLES or len(value) < 32:
                raise ValueError(
                    "AUTH__SECRET is a sample or shorter than 32 characters; make one: openssl rand -hex 32"
                )
        if self.jwks_url and not self.audience:
            raise ValueError("AUTH__JWKS_URL needs AUTH__AUDIENCE, or tokens made for others would be accepted")
        return self

    def require(self) -> "Auth":
        """Return self, or refuse to start: there is no default secret."""
        if self.secret is None and self.jwks_url is None:
            raise ValueError("set BERTH_AUTH__SECRET (openssl rand -hex 32) or BERTH_AUTH__JWKS_URL")
        return self


class DefaultPool(Group):
    runtime: str = "process"
    capacity: int | None = Field(None, ge=0)


class Queue(Group):
    max: int = Field(1000, ge=0)
    lifespan_minutes: float = Field(45, gt=0, allow_inf_nan=False, description="taken for a life until measured")
    ageing_seconds: float | None = Field(
        None,
        gt=0,
        le=604_800,
        description="what one tier is worth in waiting, so that nobody waits for ever; unset: tiers always go first",
    )

    @property
    def ageing(self) -> timedelta | None:
        return None if self.ageing_seconds is None else timedelta(seconds=self.ageing_seconds)


class Project(Group):
    """What a project may have, whoever of its members asks."""

    max_agents: int | None = Field(None, ge=0, description="unset: as many as its members may have")


class Memory(Group):
    """Defaults of simulated agents, and of the machines they are on."""

    start_seconds: float = Field(0.05, ge=0)
    stop_seconds: float = Field(0.05, ge=0)
    capacity: int = Field(10_000, ge=0, description="how many such agents there is room for")
    nodes: int = Field(2, ge=1, le=1000, description="machines they are spread over")
    cpu_percent: float | None = Field(None, ge=0, le=100, description="use that the machines report; unset: none")
    memory_percent: float | None = Field(None, ge=0, le=100, description="without agents; each adds its own")
    agent_memory_percent: float = Field(0, ge=0, le=100)
    disk_percent: float | None = Field(None, ge=0, le=100)
    network_mbit: float | None = Field(None, ge=0)


class Host(Group):
    """The host supervisor of this machine."""

    url: str | None = Field(None, description="unset: the unix socket in the data folder")
    uid_base: int = Field(210_000, ge=1000, description="agents get numeric users from here on when started as root")
    agent_python: Path | None = Field(None, description="interpreter of the agent's environment")


class Retention(Group):
    """How long what is over is kept."""

    agent_days: float = Field(30, gt=0, description="an ended agent, its events, commands and artefacts; also refusals")
    artefact_mib: int = Field(
        1024, ge=64, description="pictures and documents of one agent; the oldest go for a new one"
    )
    profile_days: float = Field(30, gt=0, description="a browser profile that nothing used; goes when disks are full")
    profile_idle_days: float = Field(0, ge=0, description="the same, but goes although there is room; 0: it is kept")
    notice_days: float = Field(7, gt=0, description="a notice that was sent or is dead; never longer than its agent")


class SmtpSecurity(StrEnum):
    """How a connection to the mail server is kept private."""

    AUTO = "auto"  # TLS on port 465, else STARTTLS where the server offers it; a password goes over nothing less
    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class Smtp(Group):
    """The mail server that takes our e-mail."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)
    host: str | None = Field(None, min_length=1, description="unset: no e-mail")
    port: int = Field(587, ge=1, le=65535)
    user: str | None = None
    password: SecretStr | None = None
    sender: str | None = Field(None, alias="from", description="berth@example.org, or Berth <berth@example.org>")
    security: SmtpSecurity = SmtpSecurity.AUTO
    timeout_seconds: float = Field(20, gt=0, le=60)

    @model_validator(mode="after")
    def _whole(self) -> "Smtp":
        if self.host is None:
            return self
        if self.sender is None:
            raise ValueError("SMTP__HOST needs SMTP__FROM, the address that e-mail comes from")
        if "@" not in parseaddr(self.sender)[1] or not self.sender.isprintable():
            raise ValueError("SMTP__FROM is no address; write berth@example.org or Berth <berth@example.org>")
        if (self.user is None) != (self.password is None):
            raise ValueError("SMTP__USER and SMTP__PASSWORD go together")
        return self


class Webhook(Group):
    """Where the product's backend hears of what happens to agents."""

    url: str | None = Field(None, description="unset: no webhooks")
    secrets: SecretStr | None = Field(None, description="whsec_...; two with a comma between them while one is changed")
    allow_private: bool = Field(False, description="also loopback, private and metadata addresses")
    timeout_seconds: float = Field(10, gt=0, le=30)

    @model_validator(mode="after")
    def _sound(self) -> "Webhook":
        if self.secrets is not None:
            keys_of(self.secrets.get_secret_value())
        if self.url is None:
            return self
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound or not self.url.isprintable():
            raise ValueError("WEBHOOK__URL is no http address")
        if parts.username is not None or parts.fragment:
            raise ValueError("WEBHOOK__URL has a user, a password or a fragment, which Berth does not send")
        return self

    def keys(self) -> tuple[bytes, ...]:
        """What deliveries are signed with. Raises ValueError: there is no default secret."""
        if self.secrets is None:
            raise ValueError(f"WEBHOOK__URL needs WEBHOOK__SECRETS; make one: {MAKE_ONE}")
        return keys_of(self.secrets.get_secret_value())


class ReachBy(StrEnum):
    """How the control plane comes to an agent over HTTP."""

    AUTO = "auto"
    SERVICE = "service"
    POD = "pod"
    PROXY = "proxy"


class Kubernetes(Group):
    """The cluster of the runtime `kubernetes`."""

    kubeconfig: Path | None = Field(
        None, description="unset: KUBECONFIG, else the pod's own account, else ~/.kube/config"
    )
    context: str | None = None
    namespace: str = Field("berth-agents", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    installation: str = Field(
        "berth",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$",
        description="marks what is ours, where two Berths share a namespace",
    )
    reach: ReachBy = Field(ReachBy.AUTO, description="auto: by Service inside the cluster, else by the pod's address")
    request_seconds: float = Field(15, gt=0, le=300)


class Watch(Group):
    """The part `berth watch`."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535, description="unset: its metrics are not served")


class Tracing(Group):
    """Where traces go, by OTLP over HTTP."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="http://host:4318; unset: as OTEL_EXPORTER_OTLP_ENDPOINT says, else nowhere",
    )


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="BERTH_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Path(".berth")
    api: Api = Api()
    database: Database = Database()
    temporal: Temporal = Temporal()
    worker: Worker = Worker()
    auth: Auth = Auth()
    pool: DefaultPool = DefaultPool()
    pools: dict[str, Pool] = {}
    templates: Templates = {}
    tiers: TierLimits = TierLimits()
    thresholds: Thresholds = Thresholds()
    queue: Queue = Queue()
    project: Project = Project()
    timings: SetTimings = Timings()
    memory: Memory = Memory()
    host: Host = Host()
    retention: Retention = Retention()
    kubernetes: Kubernetes = Kubernetes()
    watch: Watch = Watch()
    smtp: Smtp = Smtp()
    webhook: Webhook = Webhook()
    notices: Patience = Patience()
    llm: ModelAccess | None = None
    tracing: Tracing = Tracing()
    log_json: bool = False

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = Path(os.environ.get("BERTH_CONFIG") or "berth.yaml")
        return (init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path))

    def all_pools(self) -> dict[str, Pool]:
        """Pools by name, the default one first; what `POOLS` leaves out of it, `POOL__RUNTIME` and `__CAPACITY` say."""
        told = self.pools.get(DEFAULT_POOL, Pool())
        own = {name: getattr(self.pool, name) for name in DefaultPool.model_fields if name not in told.model_fields_set}
        default = told.model_copy(update=own)
        return {DEFAULT_POOL: default} | self.pools | {DEFAULT_POOL: default}

    @property
    def default_runtime(self) -> str:
        """What runs agents unless their template has a pool of its own."""
        return self.all_pools()[DEFAULT_POOL].runtime

    def require_one_runtime_a_cluster(self) -> None:
        """Refuse to measure clusters that two runtimes share: their looks at its room would overwrite each other."""
        runtimes: dict[str, tuple[str, str]] = {}
        for name, pool in self.all_pools().items():
            other, runtime = runtimes.setdefault(pool.cluster, (name, pool.runtime))
            if runtime != pool.runtime:
                raise ValueError(
                    f"pools {other} ({runtime}) and {name} ({pool.runtime}) are both in cluster {pool.cluster}; "
                    "give one of them a `cluster` of its own"
                )

    def template(self, name: str) -> Template:
        """The template of that name; `default` always exists. Raises KeyError."""
        if name == "default" and name not in self.templates:
            return Template()
        return self.templates[name]

    def rules(self) -> Rules:
        """What starts are decided by, the same for whoever decides, explains or looks ahead."""
        return Rules(
            limits=self.tiers,
            max_waiting=self.queue.max,
            lifespan_minutes=self.queue.lifespan_minutes,
            ageing=self.queue.ageing,
            max_project_agents=self.project.max_agents,
            pools=self.all_pools(),
        )

    def place_of(self, template: str | None) -> tuple[str, str]:
        """Template and pool: the first pool made for the template, else the default one. Raises KeyError."""
        pools = self.all_pools()
        if template is None:
            return pools[DEFAULT_POOL].template, DEFAULT_POOL
        self.template(template)
        made_for = (name for name, pool in pools.items() if pool.template == template)
        return template, next(made_for, DEFAULT_POOL)

    def timings_of(self, template: str) -> Timings:
        return self.template(template).timings or self.timings

    def timings_of_living(self, template: str) -> Timings:
        """Those of an agent that is there already: the general ones where its template is not any more."""
        try:
            return self.timings_of(template)
        except KeyError:
            return self.timings

    def notice_channels(self) -> frozenset[Channel]:
        """The ways out that are set up."""
        ways = {Channel.WEBHOOK: self.webhook.url, Channel.EMAIL: self.smtp.host}
        return frozenset(channel for channel, where in ways.items() if where is not None)

    def public_url(self) -> str:
        return (self.api.public_url or f"http://{called(self.api.host)}:{self.api.port}").rstrip("/")

    def agent_url(self) -> str:
        if self.api.agent_url is None and self.api.agent_host is not None:
            return f"http://{called(self.api.agent_host)}:{self.api.port}"
        return (self.api.agent_url or self.public_url()).rstrip("/")
