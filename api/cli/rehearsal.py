"""The cluster that a local stack with agents in Kubernetes gets when none is given: brought up, filled, taken down."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.settings import Settings
    from k8s.cluster.cluster import Cluster

Say = Callable[[str], None]


def is_given(settings: "Settings") -> bool:
    """Whether the settings or the environment name a cluster to use."""
    named = settings.kubernetes
    return bool(named.kubeconfig or named.context or os.environ.get("KUBECONFIG"))


@contextmanager
def cluster_for(settings: "Settings", say: Say) -> Iterator[Mapping[str, str]]:
    """What the stack's parts must be told (environment) to have their agents in a cluster of this machine's own.

    One that `make cluster` runs in the data folder is used and stays; else one is started, which ends with the block,
    and with this process. Raises `CannotStart` in one sentence where this machine has not what it takes. For the main
    thread only.
    """
    from core.dev.failure import CannotStart
    from k8s.cluster.cluster import Cluster
    from k8s.images.failure import CannotBuild
    from k8s.images.load import Containerd
    from k8s.images.store import AGENT
    from k8s.images.workshop import Workshop

    folder = settings.data_dir / "cluster"
    there = Cluster.at(folder)
    try:
        # Before the cluster: it may take minutes, and nothing is half up meanwhile.
        say(f"building {AGENT}")
        image = Workshop().build(AGENT)
    except CannotBuild as error:
        raise CannotStart(f"The agents' image cannot be built: {error}") from error
    cluster = there or Cluster.start(folder, announce=say)
    try:
        for socket in cluster.containerd_sockets:
            image.load(Containerd(socket))
        _prepare(cluster, settings.kubernetes.namespace)
        yield {
            "BERTH_KUBERNETES__KUBECONFIG": str(cluster.kubeconfig),
            "BERTH_API__AGENT_HOST": settings.api.agent_host or cluster.host_address,
        }
    except CannotBuild as error:
        raise CannotStart(f"The agents' image cannot be loaded: {error}") from error
    finally:
        if there is None:
            cluster.stop()


def _prepare(cluster: "Cluster", namespace: str) -> None:
    """The namespace of the agents, held to the level that their pods keep to."""
    from k8s.cluster.client import Client

    wanted: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    Client(cluster.kubeconfig).apply(f"/api/v1/namespaces/{namespace}", wanted)
