"""Which machines of a cluster do not answer, as the cluster's own node controller says."""

from collections.abc import Callable, Set

import structlog

from k8s.client import Json

log = structlog.get_logger()


class Hosts:
    """A copy of the nodes, as far as it matters to the agents on them; `changed` is called with a node's name."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._uids: dict[str, str] = {}
        self._trouble: dict[str, str] = {}
        self._left: Set[str] = frozenset()

    def trouble(self, name: str) -> str | None:
        """What is wrong with a machine; None when it speaks, or is not known."""
        return self._trouble.get(name)

    def put(self, thing: Json) -> None:
        meta = thing["metadata"]
        self._uids[meta["name"]] = meta["uid"]
        self._set(meta["name"], _silent(thing))

    def drop(self, thing: Json) -> None:
        name = thing["metadata"]["name"]
        if self._uids.pop(name, None) is not None:
            self._set(name, "it is no part of the cluster any more")

    def keep(self, uids: Set[str]) -> None:
        for name, uid in list(self._uids.items()):
            if uid not in uids:
                self.drop({"metadata": {"name": name}})
        # What left the cluster a list ago has taken its pods along.
        for name in self._trouble.keys() - self._uids.keys():
            if name in self._left:
                del self._trouble[name]
        self._left = self._trouble.keys() - self._uids.keys()

    def _set(self, name: str, trouble: str | None) -> None:
        if self._trouble.get(name) == trouble:
            return
        if trouble is None:
            del self._trouble[name]
            log.info("node.ready", node=name)
        else:
            self._trouble[name] = trouble
            log.warning("node.lost", node=name, why=trouble)
        self._changed(name)


def _silent(node: Json) -> str | None:
    """Why a machine is taken for lost. One that says itself that it is not ready speaks, and so do its agents."""
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready":
            if condition.get("status") != "Unknown":
                return None
            return str(condition.get("message") or condition.get("reason") or "it is silent")
    # A machine that has only just come says nothing of itself, and has no agents.
    return None
