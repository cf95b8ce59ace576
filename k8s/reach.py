"""Where an agent answers, seen from where we are."""

import base64

from pydantic import SecretStr

from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.base import Reach
from core.settings import ReachBy
from k8s.client import Json, in_cluster
from k8s.objects import API_PORT, TOKEN_KEY, VNC_PORT
from k8s.relay import Relay


def chosen(wanted: ReachBy) -> ReachBy:
    """`auto` decided: inside the cluster names lead to agents, outside their addresses."""
    if wanted is not ReachBy.AUTO:
        return wanted
    return ReachBy.SERVICE if in_cluster() else ReachBy.POD


def token_of(secret: Json) -> SecretStr:
    """The agent's token. Raises `RuntimePermanent` when somebody has emptied the Secret."""
    try:
        return SecretStr(base64.b64decode(secret["data"][TOKEN_KEY]).decode())
    except (KeyError, TypeError, ValueError):
        raise RuntimePermanent(f"the Secret {secret['metadata']['name']} holds no agent's token") from None


class Ways:
    """How agents of a namespace are reached from here."""

    def __init__(self, by: ReachBy, relay: Relay) -> None:
        self._by = chosen(by)
        self._relay = relay

    async def to(self, pod: Json, token: SecretStr) -> Reach:
        """Raises `RuntimeRetryable` while its pod has no address."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        name = str(metadata["name"])
        if not status.get("podIP"):
            raise RuntimeRetryable(f"the pod {name} has no address yet")
        match self._by:
            case ReachBy.PROXY:
                api, desktop = [await self._relay.url(name, port) for port in (API_PORT, VNC_PORT)]
            case ReachBy.SERVICE:
                api, desktop = _urls(f"{name}.{metadata['namespace']}.svc")
            case ReachBy.POD | ReachBy.AUTO:
                found = str(status["podIP"])
                api, desktop = _urls(f"[{found}]" if ":" in found else found)
        return Reach(api_url=api, desktop_url=desktop, token=token)


def _urls(host: str) -> list[str]:
    return [f"http://{host}:{port}" for port in (API_PORT, VNC_PORT)]
