"""Where and how a template's pods run in a Kubernetes cluster; without meaning for the other runtimes."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"
# One name of an object: a DNS subdomain.
_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
RUNTIME_DEFAULT = "RuntimeDefault"


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReadyBy(StrEnum):
    """Who says that an agent is usable: itself over its channel, or the cluster by its readiness probe."""

    CHANNEL = "channel"
    PROBE = "probe"


class PullPolicy(StrEnum):
    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"
    NEVER = "Never"


class Effect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(Part):
    """A taint that does not keep the pod away. No key means every one; no effect, every effect."""

    key: str | None = None
    operator: TolerationOperator = TolerationOperator.EQUAL
    value: str | None = None
    effect: Effect | None = None
    toleration_seconds: int | None = Field(None, ge=0)


class Spread(Part):
    """How evenly pods lie over nodes. `hard` leaves a pod waiting rather than break it."""

    max_skew: int = Field(1, ge=1)
    topology_key: str = Field("kubernetes.io/hostname", min_length=1, max_length=317)
    hard: bool = False


class AccessMode(StrEnum):
    ONE_POD = "ReadWriteOncePod"
    ONE_NODE = "ReadWriteOnce"
    MANY_NODES = "ReadWriteMany"


class ProfileClaim(Part):
    """A volume that keeps the profile of a user's project between lives; no pod owns it."""

    size: str = Field("1Gi", pattern=_QUANTITY)
    storage_class: str | None = Field(None, pattern=_NAME, description="None: the cluster's default")
    access_mode: AccessMode = AccessMode.ONE_POD


class LoadBalancer(Part):
    """An address outside the cluster for each agent, where only its token keeps others from steering and watching it.

    Whether it is well and the files of its noVNC page are open there. A cloud bills each.
    """

    annotations: dict[str, str] = Field({}, description="what the cloud's controller reads: an internal one, say")
    source_ranges: tuple[IPv4Network | IPv6Network, ...] = Field((), description="who may come; none: everybody")


class KubernetesTemplate(Part):
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] = Field({}, description="as Kubernetes writes it")
    tolerations: tuple[Toleration, ...] = ()
    priority_class: str | None = Field(None, pattern=_NAME)
    topology_spread: Spread | None = Spread()
    runtime_class: str | None = Field(None, pattern=_NAME, description="gVisor or Kata, say")
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    pull_secrets: tuple[str, ...] = ()
    ready_by: ReadyBy = ReadyBy.CHANNEL
    seccomp_profile: str = Field(
        "agent.json",
        pattern=r"^(RuntimeDefault|[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)$",
        max_length=255,
        description="a file below the kubelet's seccomp folder, or RuntimeDefault (needs browser.sandbox: false)",
    )
    load_balancer: LoadBalancer | None = Field(None, description="None: desktops are reached through Berth alone")
    profile: ProfileClaim | None = Field(None, description="None: the profile goes with the pod")
