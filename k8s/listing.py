"""Lists of a cluster, a page at a time: whoever keeps little of each object needs little room for thousands."""

from collections.abc import AsyncGenerator
from typing import NamedTuple

from core.errors import RuntimeRetryable
from k8s.client import JSON, Cluster, Json, Query

# A pod takes some 40 KiB once it is read, so a page is what a list costs in memory.
_PAGE = 100
# A list in pages is of one moment, which the server forgets after five minutes; five thousand pages are no cluster.
_MOST_PAGES = 5_000


class Listing(NamedTuple):
    """Objects, and the version of the whole from which a watch goes on without a gap."""

    items: list[Json]
    version: str


async def pages(
    cluster: Cluster, path: str, *, doing: str, query: Query | None = None, accept: str = JSON
) -> AsyncGenerator[Listing, None]:
    """All objects under `path` at one moment. Raises `TooOld` when reading them took too long."""
    asked: dict[str, str | int | bool] = {**(query or {}), "limit": _PAGE}
    for _ in range(_MOST_PAGES):
        page = await cluster.call("GET", path, query=asked, doing=doing, accept=accept)
        place = page.get("metadata") or {}
        yield Listing(page.get("items") or [], str(place.get("resourceVersion") or ""))
        if not place.get("continue"):
            return
        asked["continue"] = place["continue"]
    raise RuntimeRetryable(f"{doing}: the list does not end")
