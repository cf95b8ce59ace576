"""One namespace of a cluster and the objects of ours in it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple
from urllib.parse import quote

from core.errors import RuntimeRetryable
from k8s.client import JSON, METADATA_LIST, Cluster, Json, Query
from k8s.faults import NotThere, TooOld

# A pod takes some 40 KiB once it is read, so a page is what a list costs in memory.
_PAGE = 100
# A list in pages is of one moment, which the server forgets after five minutes; five thousand pages are no cluster.
_MOST_PAGES = 5_000
_METADATA = METADATA_LIST.replace("PartialObjectMetadataList", "PartialObjectMetadata")


class Listing(NamedTuple):
    """Objects, and the version of the whole from which a watch goes on without a gap."""

    items: list[Json]
    version: str


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

    async def pages(
        self, kind: str, doing: str, *, selector: str = "", fields: str = "", metadata: bool = False
    ) -> AsyncGenerator[Listing, None]:
        """All at one moment, some of them at a time: whoever keeps little of each needs little room for thousands."""
        query: dict[str, str | int | bool] = {"limit": _PAGE}
        if selector:
            query["labelSelector"] = selector
        if fields:
            query["fieldSelector"] = fields
        accept = METADATA_LIST if metadata else JSON
        for _ in range(_MOST_PAGES):
            page = await self.cluster.call("GET", f"{self.path}/{kind}", query=query, doing=doing, accept=accept)
            place = page.get("metadata") or {}
            yield Listing(page.get("items") or [], str(place.get("resourceVersion") or ""))
            if not place.get("continue"):
                return
            query["continue"] = place["continue"]
        raise RuntimeRetryable(f"{doing}: the list does not end")

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
