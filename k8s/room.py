"""Looks at a cluster for its room: nodes and pods, and quotas and metrics where they are to be had."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import RuntimeFault
from core.runtime.base import ClusterCapacity
from core.settings import DEFAULT_POOL, Settings
from k8s import capacity
from k8s.client import Json
from k8s.faults import RIGHTS_MISSING, NotThere
from k8s.listing import pages
from k8s.nodes import LIVING, Node, node_seen, pod_seen
from k8s.observe import RUNTIME
from k8s.space import Space

log = structlog.get_logger()
_DOING = "measuring the cluster's room"
_NODES_SECONDS = 30.0
_REFUSED_SECONDS = 300.0
_LONG_SECONDS = 0.25
_REST = 9
# Well below the age at which a look is not believed any more, so that the next one is there before.
_OLDEST_SECONDS = 30.0
METRICS = "/apis/metrics.k8s.io/v1beta1/nodes"


def _whole(item: Json) -> Json:
    return item


class Room:
    def __init__(self, space: Space, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._space = space
        self._settings = settings
        self._clock = clock
        self._nodes: list[Json] = []
        self._looked = float("-inf")
        self._refused: dict[str, float] = {}
        self._last: ClusterCapacity | None = None
        self._wanted: Mapping[str, Template] | None = None
        self._next = 0.0

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        """Needs the right to list nodes. Without that to list all pods only our namespace's are counted.

        In a cluster so large that a look takes long, looks are as far apart as keeps them a tenth of our time, but none
        is told that began more than half a minute ago.
        """
        if self._last is not None and self._clock() < self._next and wanted == self._wanted:
            return self._last
        began, at = self._clock(), datetime.now(UTC)
        found = await self._look(wanted)
        ended = self._clock()
        rest = (ended - began) * _REST if ended - began > _LONG_SECONDS else 0
        self._wanted, self._last = wanted, found.model_copy(update={"looked_at": at})
        self._next = min(ended + rest, began + _OLDEST_SECONDS)
        return self._last

    async def _look(self, wanted: Mapping[str, Template] | None) -> ClusterCapacity:
        nodes, quotas, metrics = await asyncio.gather(
            self._fresh_nodes(),
            self._perhaps(f"{self._space.path}/resourcequotas"),
            self._perhaps(METRICS),
        )
        pods = await self._pods()
        installation = self._settings.kubernetes.installation
        usual = self._template()
        return capacity.capacity(nodes, pods, usual, installation, wanted=wanted, quotas=quotas or (), metrics=metrics)

    async def check(self, template: Template) -> None:
        """Raises `NeverSatisfiable` for what is larger than every node. Nodes of the last half minute will do."""
        await self._known_nodes()
        capacity.check(self._nodes, template)

    async def check_size(self, size: Size) -> None:
        """Raises `NeverSatisfiable` for limits beyond every node."""
        await self._known_nodes()
        capacity.check_size(self._nodes, size)

    async def now(self, template: Template) -> list[Node]:
        """All nodes with what is on them for an agent of `template`, at this moment."""
        nodes, pods = await asyncio.gather(self._fresh_nodes(), self._pods())
        return capacity.nodes_with(nodes, pods, template)

    async def _known_nodes(self) -> None:
        if self._clock() - self._looked > _NODES_SECONDS:
            try:
                await self._fresh_nodes()
            except RuntimeFault as error:
                # The pod itself will tell, only later.
                log.warning("nodes.not_listed", code=error.error_code)
                self._nodes, self._looked = [], self._clock()

    def _template(self) -> Template:
        """What `fits` counts in when nobody says: agents of the default pool, else of the first that runs here."""
        pools = self._settings.all_pools()
        names = [DEFAULT_POOL, *sorted(pools)]
        ours = next((pools[name] for name in names if pools[name].runtime == RUNTIME), None)
        return self._settings.template(ours.template) if ours is not None else Template()

    async def _fresh_nodes(self) -> list[Json]:
        self._nodes = await self._items("/api/v1/nodes", keep=node_seen)
        self._looked = self._clock()
        return self._nodes

    async def _pods(self) -> list[Json]:
        """Those that hold something, of everybody; of our namespace where we may see no others."""
        everybodys = await self._perhaps("/api/v1/pods", keep=pod_seen, fields=LIVING)
        if everybodys is not None:
            return everybodys
        return await self._items(f"{self._space.path}/pods", keep=pod_seen, fields=LIVING)

    async def _perhaps(
        self, path: str, *, keep: Callable[[Json], Json] = _whole, fields: str = ""
    ) -> list[Json] | None:
        """None where we may not look or there is nothing to look at; not asked again for some minutes.

        A server that only fails to answer says nothing of what is there, so its error is raised.
        """
        if self._clock() < self._refused.get(path, float("-inf")):
            return None
        try:
            return await self._items(path, keep=keep, fields=fields)
        except RuntimeFault as error:
            if not isinstance(error, NotThere) and error.error_code != RIGHTS_MISSING:
                log.warning("look.failed", path=path, detail=error.detail)
                raise
            log.info("look.refused", path=path, detail=error.detail)
            self._refused[path] = self._clock() + _REFUSED_SECONDS
            return None

    async def _items(self, path: str, *, keep: Callable[[Json], Json] = _whole, fields: str = "") -> list[Json]:
        """A page at a time: others get their turn between two, and what is not kept of each goes with it."""
        query = {"fieldSelector": fields} if fields else {}
        found: list[Json] = []
        async for page in pages(self._space.cluster, path, doing=_DOING, query=query):
            found += map(keep, page.items)
            await asyncio.sleep(0)
        return found
