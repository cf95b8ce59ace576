"""Browser profiles: one writer at a time, found by what the cluster holds, so that it binds every process of ours."""

import asyncio

from core.errors import RuntimeRetryable
from k8s import marks
from k8s.client import Json
from k8s.names import profile_name
from k8s.nodes import ended
from k8s.space import Space


class Profiles:
    def __init__(self, space: Space, installation: str) -> None:
        self._space = space
        self._installation = installation

    async def require_free(self, profile: str, name: str, doing: str) -> None:
        """Raises `RuntimeRetryable` while another attempt than `name` has the profile.

        Call when the Secret of `name` is there: of two that begin at once each then sees the other, so at most one
        goes on; both may have to try again.
        """
        for other in await self._users(profile, doing):
            if other != name:
                raise RuntimeRetryable(f"{doing}: {other} still uses this profile")

    async def forget(self, user_id: str, project_id: str) -> None:
        """Delete the volume. Raises `RuntimeRetryable` while somebody uses it."""
        profile = profile_name(self._installation, user_id, project_id)
        doing = "forgetting a browser profile"
        for other in await self._users(profile, doing):
            raise RuntimeRetryable(f"{doing}: {other} still uses it")
        await self._space.delete("persistentvolumeclaims", profile, doing)

    async def _users(self, profile: str, doing: str) -> list[str]:
        """Names of attempts that write to it, or are about to."""
        selector = marks.selector(self._installation, profile=profile)
        # A Secret that appears after this look will find ours in its own.
        announced, pods = await asyncio.gather(
            self._space.list("secrets", doing, selector=selector, metadata=True),
            self._space.list("pods", doing, selector=selector),
        )
        over = {pod["metadata"]["name"]: _is_over(pod) for pod in pods.items}
        names = {each["metadata"]["name"] for each in announced.items} | set(over)
        return sorted(name for name in names if not over.get(name, False))


def _is_over(pod: Json) -> bool:
    """Its container has ended for good; the pod's phase says so a second later."""
    states = (pod.get("status") or {}).get("containerStatuses") or ()
    return ended(pod) or any("terminated" in (each.get("state") or {}) for each in states)
