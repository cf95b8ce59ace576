"""Making an attempt: a Secret, then Pod and Service at once, so that each step may be the last before a crash.

The Secret comes first: it announces the attempt, holds the token in force, and owns the rest. A pod that is made before
its Secret costs a second, which the kubelet waits before it looks for it again.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from core.domain.placement import ProfileClaim
from core.domain.timings import Timings
from core.errors import RuntimeFault, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Created, Handle
from core.tokens import hash_token
from k8s import objects
from k8s.client import Json
from k8s.faults import QUOTA_EXCEEDED, AlreadyThere
from k8s.marks import is_of
from k8s.names import attempt_name, profile_name
from k8s.observe import RUNTIME
from k8s.profiles import Profiles
from k8s.reach import token_of
from k8s.space import Space

log = structlog.get_logger()


class Creation:
    """Of one attempt. Every step may find its object there already, from a try whose answer was lost."""

    def __init__(self, space: Space, profiles: Profiles, installation: str, spec: AgentSpec, timings: Timings) -> None:
        self._space = space
        self._profiles = profiles
        self._installation = installation
        self._spec = spec
        self._timings = timings
        self._name = attempt_name(spec.agent_id, spec.attempt)
        self._doing = f"making agent {spec.agent_id} (attempt {spec.attempt})"

    async def run(self) -> Created:
        secret, fresh = await self._secret()
        pod = None if fresh else await self._space.get("pods", self._name, self._doing)
        if pod is None:
            pod = await self._begin(secret, fresh)
        else:
            self._require_ours(pod, secret)
            # Pod and Service are made side by side: one may be there without the other.
            await self._service(secret)
        return Created(handle=self._handle(pod), token_hash=hash_token(token_of(secret).get_secret_value()))

    async def _begin(self, secret: Json, fresh: bool) -> Json:
        spec = self._spec
        claim = spec.template.kubernetes.profile
        profile = profile_name(self._installation, spec.user_id, spec.project_id)
        try:
            await self._profiles.require_free(profile, self._name, self._doing)
            if claim is not None:
                await self._claim(claim, profile)
            pod, _ = await together(self._pod(secret), self._service(secret))
            log.info("pod.made", agent_id=spec.agent_id, attempt=spec.attempt, pod=self._name)
            return pod
        except RuntimeFault as error:
            # Nobody will try again, or this try announced itself: nobody else should find the place held.
            if (fresh or not error.retryable) and not await self._pod_is_there(secret):
                await self._space.delete("secrets", self._name, self._doing)
            raise

    async def _pod_is_there(self, secret: Json) -> bool:
        """Then the Secret stays: it would take along a pod that lives, and whose end would be told as its failure."""
        pod = await self._space.get("pods", self._name, self._doing, metadata=True)
        return pod is not None and _owned(pod, secret)

    async def _secret(self) -> tuple[Json, bool]:
        """The Secret, and whether this call made it."""
        try:
            return await self._create("secrets", objects.secret(self._spec, self._installation)), True
        except AlreadyThere:
            found = await self._existing("secrets")
            self._require_ours(found)
            return found, False

    async def _pod(self, secret: Json) -> Json:
        manifest = objects.pod(self._spec, self._installation, secret, self._timings)
        try:
            return await self._create("pods", manifest)
        except AlreadyThere:
            found = await self._existing("pods")
            self._require_ours(found, secret)
            return found

    async def _service(self, secret: Json) -> Json:
        manifest = objects.service(self._spec, self._installation, secret)
        try:
            return await self._create("services", manifest)
        except AlreadyThere:
            found = await self._existing("services")
            self._require_ours(found, secret)
            return found

    async def _claim(self, wanted: ProfileClaim, name: str) -> None:
        kind = "persistentvolumeclaims"
        try:
            await self._create(kind, objects.claim(self._spec, wanted, self._installation))
        except AlreadyThere:
            there = await self._space.get(kind, name, self._doing, metadata=True)
            if there is None or there["metadata"].get("deletionTimestamp"):
                raise RuntimeRetryable(f"{self._doing}: its profile is just being forgotten") from None

    async def _create(self, kind: str, manifest: Json) -> Json:
        """Raises `AlreadyThere`, also where a quota is used up, as a cluster counts before it looks what is there."""
        try:
            return await self._space.create(kind, manifest, self._doing)
        except RuntimeRetryable as refused:
            if refused.error_code != QUOTA_EXCEEDED:
                raise
            if await self._space.get(kind, manifest["metadata"]["name"], self._doing, metadata=True) is None:
                raise
            raise AlreadyThere(refused.detail) from None

    async def _existing(self, kind: str) -> Json:
        found = await self._space.get(kind, self._name, self._doing)
        if found is None:
            raise RuntimeRetryable(f"{self._doing}: it is just being removed")
        if not is_of(found, self._installation):
            raise RuntimePermanent(f"{self._doing}: {kind} {self._name} is there and belongs to somebody else")
        return found

    def _require_ours(self, found: Json, secret: Json | None = None) -> None:
        """Raises `RuntimeRetryable` for what goes with an earlier try's Secret: the cluster clears it up late."""
        if found["metadata"].get("deletionTimestamp") or (secret is not None and not _owned(found, secret)):
            raise RuntimeRetryable(f"{self._doing}: what an earlier try made is just being removed")

    def _handle(self, pod: Json) -> Handle:
        metadata = pod["metadata"]
        native = {"namespace": metadata["namespace"], "pod": metadata["name"], "uid": metadata["uid"]}
        return Handle(runtime=RUNTIME, agent_id=self._spec.agent_id, attempt=self._spec.attempt, native=native)


def _owned(found: Json, secret: Json) -> bool:
    owners = {owner.get("uid") for owner in found["metadata"].get("ownerReferences") or ()}
    return secret["metadata"]["uid"] in owners


async def together(*steps: Coroutine[Any, Any, Json]) -> list[Json]:
    """Side by side; all of them have come to their end before the first error is raised."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
