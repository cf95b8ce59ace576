"""`python -m k8s.rehearsal`: makes the Secret of the `dev` deployment inside its cluster, once, of random values."""

import asyncio
import secrets
from pathlib import Path

import structlog

from core.settings import Kubernetes
from core.telemetry import configure
from k8s.client import Cluster
from k8s.faults import AlreadyThere
from k8s.space import Space

log = structlog.get_logger()
NAME = "berth"
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def values() -> dict[str, str]:
    """New ones, for every entry that the deployment's parts read."""
    password = secrets.token_hex(32)
    return {
        "BERTH_AUTH__SECRET": secrets.token_hex(32),
        "BERTH_DATABASE_PASSWORD": password,
        "BERTH_DATABASE__URL": f"postgresql://berth:{password}@postgres:5432/berth",
        "BERTH_TEMPORAL__ADDRESS": "temporal:7233",
    }


async def put(space: Space) -> None:
    """Make the Secret unless it is there: one that is there stays as it is. Raises as `Cluster.call`."""
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "stringData": values()}
    try:
        await space.create("secrets", manifest, "making the deployment's Secret")
    except AlreadyThere:
        log.info("secret.kept", namespace=space.namespace, name=NAME)
    else:
        log.info("secret.made", namespace=space.namespace, name=NAME)


async def _main(namespace: str) -> None:
    cluster = Cluster(Kubernetes())
    try:
        await put(Space(cluster, namespace))
    finally:
        await cluster.close()


if __name__ == "__main__":
    configure("rehearsal", json=True)
    asyncio.run(_main(_NAMESPACE.read_text().strip()))
