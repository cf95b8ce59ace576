"""`python -m k8s.rehearsal`: makes the Secret of the `dev` deployment inside its cluster, once, of random values."""

import asyncio
import secrets
import sys
from pathlib import Path

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration, CoreV1Api, V1ObjectMeta, V1Secret

from core.telemetry import configure

log = structlog.get_logger()
NAME = "berth"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 15


def made() -> dict[str, str]:
    """New values for every entry that the deployment's parts read."""
    password = secrets.token_hex(32)
    return {
        "BERTH_AUTH__SECRET": secrets.token_hex(32),
        "BERTH_DATABASE_PASSWORD": password,
        "BERTH_DATABASE__URL": f"postgresql://berth:{password}@postgres:5432/berth",
        "BERTH_TEMPORAL__ADDRESS": "temporal:7233",
    }


async def put(api: CoreV1Api, namespace: str) -> None:
    """Make the Secret unless it is there; one that is there stays as it is. Raises `ApiException` when refused."""
    body = V1Secret(metadata=V1ObjectMeta(name=NAME), string_data=made())
    try:
        await api.create_namespaced_secret(namespace, body, _request_timeout=_SECONDS)
    except ApiException as error:
        if error.status != 409:
            raise
        log.info("secret.kept", namespace=namespace, name=NAME)
    else:
        log.info("secret.made", namespace=namespace, name=NAME)


async def _main() -> int:
    configure("rehearsal", json=True)
    found = Configuration()
    config.load_incluster_config(found)  # type: ignore[no-untyped-call]
    async with ApiClient(configuration=found) as client:
        await put(CoreV1Api(client), (_ACCOUNT / "namespace").read_text().strip())
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
