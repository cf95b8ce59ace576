"""Where an agent answers, seen from where we are."""

import base64

from pydantic import SecretStr

from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.base import Reach
from core.settings import ReachBy
from k8s.client import Json, in_cluster
from k8s.objects import API_PORT, TOKEN_KEY, VNC_PORT


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


def address(pod: Json, by: ReachBy) -> str:
    """The host of an agent's URLs. Raises `RuntimeRetryable` while its pod has no address."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    if not status.get("podIP"):
        raise RuntimeRetryable(f"the pod {metadata['name']} has no address yet")
    if by is ReachBy.SERVICE:
        return f"{metadata['name']}.{metadata['namespace']}.svc"
    found = str(status["podIP"])
    return f"[{found}]" if ":" in found else found


def reach(host: str, token: SecretStr) -> Reach:
    return Reach(api_url=f"http://{host}:{API_PORT}", desktop_url=f"http://{host}:{VNC_PORT}", token=token)
