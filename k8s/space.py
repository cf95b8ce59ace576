"""One namespace of a cluster and the objects of ours in it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from urllib.parse import quote

from k8s.client import JSON, METADATA_LIST, Cluster, Json, Query
from k8s.faults import NotThere, TooOld
from k8s.listing import Listing, pages

_METADATA = METADATA_LIST.replace("PartialObjectMetadataList", "PartialObjectMetadata")


class Space:
    """`kind` is the plural in the API's paths: `pods`, `secrets`, `services`, `persistentvolumeclaims`."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}"

    async def create(self, kind: str, manifest: Json, doing: str) -> Json:
        """Raises `AlreadyThere`."""
        return await self.cluster.call("POST", f"{self.path}/{kind}", body=manifest, doing=doing)

    async def get(self, kind: str, name: str, doing: str, *, metadata: bool = False) -> Json | None:
        accept = _METADATA if metadata else JSON
        try:
            return await self.cluster.call("GET", self._of(kind, name), doing=doing, accept=accept)
        except NotThere:
            return None

    async def patch(self, kind: str, name: str, change: Json, doing: str, content: str) -> Json:
        """`name` may be of a subresource: `NAME/resize`. Raises `NotThere`."""
        thing, _, part = name.partition("/")
        path = f"{self._of(kind, thing)}/{part}" if part else self._of(kind, thing)
        return await self.cluster.call("PATCH", path, body=change, doing=doing, content=content)

    async def delete(self, kind: str, name: str, doing: str, *, grace_seconds: int | None = None) -> bool:
        """Ask for its end; False when it was not there. With finalizers or a grace it stays for a while."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.cluster.call("DELETE", self._of(kind, name), body=options, doing=doing)
        except NotThere:
            return False
        return True

    async def list(
        self, kind: str, doing: str, *, selector: str = "", fields: str = "", metadata: bool = False
    ) -> Listing:
        """All at one moment, at once. With `metadata` nothing else of them comes."""
        items: list[Json] = []
        version = ""
        async for page in self.pages(kind, doing, selector=selector, fields=fields, metadata=metadata):
            items += page.items
            version = page.version
        return Listing(items, version)

    def pages(
        self, kind: str, doing: str, *, selector: str = "", fields: str = "", metadata: bool = False
    ) -> AsyncGenerator[Listing, None]:
        """The same, some of them at a time."""
        given = {"labelSelector": selector, "fieldSelector": fields}
        query = {name: value for name, value in given.items() if value}
        accept = METADATA_LIST if metadata else JSON
        return pages(self.cluster, f"{self.path}/{kind}", doing=doing, query=query, accept=accept)

    def watch(
        self, kind: str, version: str, doing: str, *, query: Query, seconds: int
    ) -> AsyncGenerator[tuple[str, Json], None]:
        asked = {**query, "resourceVersion": version}
        return self.cluster.watch(f"{self.path}/{kind}", doing=doing, query=asked, seconds=seconds)

    async def until(self, pod: str, holds: Callable[[Json | None], bool], doing: str, *, seconds: float) -> bool:
        """Wait until a pod is as wanted (None: not there); False when the seconds are over. Watches, never polls."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    fields = f"metadata.name={pod}"
                    items, version = await self.list("pods", doing, fields=fields)
                    if holds(items[0] if items else None):
                        return True
                    try:
                        if await self._sees(version, holds, doing, fields, seconds):
                            return True
                    except TooOld:
                        continue
        except TimeoutError:
            return False

    async def _sees(
        self, version: str, holds: Callable[[Json | None], bool], doing: str, fields: str, seconds: float
    ) -> bool:
        query = {"fieldSelector": fields}
        async with aclosing(self.watch("pods", version, doing, query=query, seconds=int(seconds) + 1)) as changes:
            async for kind, pod in changes:
                if kind == "DELETED":
                    return holds(None)
                if kind != "BOOKMARK" and holds(pod):
                    return True
        return False

    def _of(self, kind: str, name: str) -> str:
        return f"{self.path}/{kind}/{quote(name, safe='')}"
