"""Which one of several processes does a job: the one that holds a Lease in the cluster."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from core.errors import RuntimeFault
from k8s.client import Cluster, Json
from k8s.faults import AlreadyThere, NotThere

log = structlog.get_logger()


@dataclass(frozen=True)
class Terms:
    """In seconds. Who died is succeeded after `duration` and one `retry` more; who left in order, after a `retry`.

    A holder gives up after `give_up` without a renewal, well before another may take over.
    """

    duration: int = 10
    renew: float = 3
    retry: float = 1.5
    give_up: float = 7
    request: float = 3


@dataclass
class _Sight:
    """A state of the lease and when we first saw it, by our own clock: those of other machines may differ."""

    version: str
    holder: str
    duration: float
    since: float


def unique() -> str:
    """A name for this process that no other has or had."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}-{secrets.token_hex(4)}"


class Holding(NamedTuple):
    """Who holds a lease, since when they last said so by their own clock, and for how many seconds that holds."""

    holder: str
    renewed_at: datetime
    seconds: float


async def held(cluster: Cluster, namespace: str, name: str) -> Holding | None:
    """Who holds it; None when nobody ever did, or whoever did gave it back. Raises what the cluster says."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
    try:
        found = await cluster.call("GET", path, doing="ask which watcher leads", seconds=Terms().request)
    except NotThere:
        return None
    spec = found.get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return None
    seconds = float(spec.get("leaseDurationSeconds") or Terms().duration)
    return Holding(str(spec["holderIdentity"]), datetime.fromisoformat(str(spec["renewTime"])), seconds)


class Lease:
    """`holder` must be unique among all processes that ever ask for it."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        holder: str,
        *,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._holder = holder
        self._terms = terms or Terms()
        self._clock = clock
        self._sight: _Sight | None = None

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` whenever the lease is ours; it is cancelled when the lease cannot be kept. Until cancelled.

        Raises what `work` raises, and returns when it returns; either way, the lease is given back.
        """
        while True:
            began = await self._acquire()
            log.info("lease.held", lease=self._name, holder=self._holder)
            working = asyncio.ensure_future(work())
            keeping = asyncio.create_task(self._keep(began), name=f"lease {self._name}")
            try:
                await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                log.warning("lease.lost", lease=self._name, holder=self._holder)
            finally:
                lost = keeping.done()
                for task in (working, keeping):
                    task.cancel()
                await asyncio.gather(working, keeping, return_exceptions=True)
                if not lost:
                    await self._release()

    async def _acquire(self) -> float:
        """Wait until it is ours; return when the asking began that got it."""
        complaint = ""
        while True:
            began = self._clock()
            try:
                if await self._take():
                    return began
                complaint = ""
            except RuntimeFault as error:
                if error.detail != complaint:
                    log.warning("lease.unreachable", lease=self._name, why=error.detail)
                complaint = error.detail
            await asyncio.sleep(self._terms.retry)

    async def _keep(self, held_since: float) -> None:
        """Renew until that failed for too long, or somebody else has it."""
        while True:
            await asyncio.sleep(self._terms.renew if self._clock() - held_since < self._terms.renew else 0.5)
            began = self._clock()
            left = held_since + self._terms.give_up - began
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    if not await self._take():
                        return
                held_since = began
            except TimeoutError:
                return
            except RuntimeFault as error:
                log.warning("lease.not_renewed", lease=self._name, why=error.detail)

    async def _take(self) -> bool:
        """Make it ours, or keep it so, where it is free, ours or expired. False when somebody else has it."""
        try:
            found = await self._call("GET", f"{self._path}/{self._name}")
        except NotThere:
            return await self._create()
        self._look_at(found)
        sight = self._sight
        if sight is not None and sight.holder not in ("", self._holder):
            if self._clock() - sight.since < sight.duration:
                return False
            log.info("lease.expired", lease=self._name, of=sight.holder)
        return await self._write(found, self._holder)

    async def _create(self) -> bool:
        body = {"metadata": {"name": self._name}, "spec": self._spec({}, self._holder)}
        try:
            self._look_at(await self._call("POST", self._path, body))
        except AlreadyThere:
            return False
        return True

    async def _write(self, found: Json, holder: str) -> bool:
        """Replace what was found. Raises `RuntimeRetryable` when another writer came first."""
        body = {**found, "spec": self._spec(found.get("spec") or {}, holder)}
        self._look_at(await self._call("PUT", f"{self._path}/{self._name}", body))
        return True

    def _spec(self, before: Json, holder: str) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        moved = (before.get("holderIdentity") or "") != holder
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": self._terms.duration,
            "acquireTime": now if moved else before.get("acquireTime") or now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if moved and holder else 0),
        }

    async def _release(self) -> None:
        """Leave it free for whoever asks next. When that fails, it expires."""
        try:
            found = await self._call("GET", f"{self._path}/{self._name}")
            if ((found.get("spec") or {}).get("holderIdentity") or "") == self._holder:
                await self._write(found, "")
                log.info("lease.released", lease=self._name, holder=self._holder)
        except RuntimeFault as error:
            log.warning("lease.not_released", lease=self._name, why=error.detail)

    def _look_at(self, found: Json) -> None:
        spec = found.get("spec") or {}
        version = str(found["metadata"]["resourceVersion"])
        if self._sight is None or self._sight.version != version:
            duration = float(spec.get("leaseDurationSeconds") or self._terms.duration)
            self._sight = _Sight(version, spec.get("holderIdentity") or "", duration, self._clock())

    async def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        doing = "ask which watcher leads"
        return await self._cluster.call(method, path, doing=doing, body=body, seconds=self._terms.request)
