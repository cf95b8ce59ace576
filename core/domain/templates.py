"""What to run and where: templates and pools, as a configuration file describes them."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from core.domain.environment import BrowserSettings
from core.domain.images import check_image
from core.domain.placement import KubernetesTemplate
from core.domain.timings import SetTimings

MIB = 1 << 20


class Resources(BaseModel):
    """Requests place an agent, limits bound it (specification: 500m/512Mi, 1000m/1Gi). CPU in cores, memory in MiB."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpu: float = Field(0.5, gt=0)
    memory_mib: int = Field(512, gt=0)
    cpu_limit: float = Field(1.0, gt=0)
    memory_limit_mib: int = Field(1024, gt=0)
    cpu_most: float | None = Field(None, gt=0, description="no resize goes beyond; None: as large as its machines are")
    memory_most_mib: int | None = Field(None, gt=0)

    def believed(self, told_bytes: int | None, given_mib: int | None) -> int:
        """Bytes that an agent of this kind holds by its own word: what it asks for where it says nothing, never more
        than it can have; `given_mib` is its limit where it has another than its kind."""
        if not told_bytes:
            return self.memory_mib * MIB
        return min(told_bytes, max(given_mib or 0, self.memory_most_mib or 0, self.memory_limit_mib) * MIB)


class Simulation(BaseModel):
    """How a `memory` agent behaves; without meaning for the other runtimes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    start_seconds: float | None = Field(None, ge=0, description="instead of MEMORY__START_SECONDS")
    stop_seconds: float | None = Field(None, ge=0)
    fail_create: int = Field(0, ge=0, description="that many creates fail before one works")
    never_ready: bool = False
    exit_after_seconds: float | None = Field(None, ge=0)
    exit_code: int = 75
    ignores_shutdown: bool = False


class Template(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    image: str = Field("localhost/berth-agent:dev", description="what `make images` builds; ignored by `process`")
    resources: Resources = Resources()
    browser: BrowserSettings = BrowserSettings()
    environment: dict[str, str] = {}
    timings: SetTimings | None = Field(None, description="instead of the general ones")
    simulation: Simulation = Simulation()
    kubernetes: KubernetesTemplate = KubernetesTemplate()

    @field_validator("image")
    @classmethod
    def _sound_image(cls, value: str) -> str:
        return check_image(value)

    def placed_by(self) -> "Template":
        """What of it decides where there is room for its agents, and nothing else."""
        asked, where = self.resources, self.kubernetes
        return Template(
            resources=Resources(
                cpu=asked.cpu,
                memory_mib=asked.memory_mib,
                cpu_limit=asked.cpu_limit,
                memory_limit_mib=asked.memory_limit_mib,
            ),
            kubernetes=KubernetesTemplate(
                node_selector=where.node_selector,
                affinity=where.affinity,
                tolerations=where.tolerations,
                priority_class=where.priority_class,
            ),
        )


class Pool(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    runtime: str = "process"
    cluster: str = Field("local", description="pools of one cluster share its room")
    template: str = "default"
    capacity: int | None = Field(None, ge=0, description="None: as many as fit")
    max_starting: int | None = Field(None, ge=1, description="of this pool at once; more wait; None: no limit")
    max_starting_per_node: int | None = Field(
        None, ge=1, description="of all pools of the cluster, a machine; the same"
    )

    @property
    def limits_starts(self) -> bool:
        return self.max_starting is not None or self.max_starting_per_node is not None


def _with_one_image(templates: Mapping[str, Template]) -> dict[str, Template]:
    """`templates`, where those that name no image have that of the default one: on a cluster there is no other."""
    usual = templates.get("default", Template()).image
    return {
        name: each if "image" in each.model_fields_set else each.model_copy(update={"image": usual})
        for name, each in templates.items()
    }


Templates = Annotated[dict[str, Template], AfterValidator(_with_one_image)]


def asking_alike(templates: Mapping[str, Template]) -> list[tuple[str, ...]]:
    """Names of templates that find room in the same places, together, in the order of the first of each."""
    found: list[tuple[Template, list[str]]] = []
    for name, template in templates.items():
        asks = template.placed_by()
        like = next((names for other, names in found if other == asks), None)
        if like is None:
            found.append((asks, [name]))
        else:
            like.append(name)
    return [tuple(names) for _, names in found]


def cluster_of(pools: Mapping[str, Pool], name: str) -> str:
    """Whose room the agents of a pool take; a pool that was taken out of the settings is by itself."""
    pool = pools.get(name)
    return pool.cluster if pool else name
