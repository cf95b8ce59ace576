"""Which machines of a cluster do not answer, as the cluster's own node controller says."""

import asyncio
from collections.abc import Callable, Set
from datetime import datetime, timedelta

import structlog

from k8s.client import Json

log = structlog.get_logger()
SILENCE_SECONDS = 20.0
# When the API server itself was away, every node is called silent until its kubelet speaks next. That takes as long as
# the kubelet's own list and watch, which pauses for half a minute and more before it tries again.
AFTERMATH_SECONDS = 90.0


def patience(calm_seconds: float, usual: float = SILENCE_SECONDS) -> float:
    """How long a machine has to be silent to be lost, when the API server has answered for `calm_seconds`."""
    return max(usual, AFTERMATH_SECONDS) if calm_seconds < AFTERMATH_SECONDS else usual


class Hosts:
    """A copy of the nodes, as far as it matters to the agents on them; `changed` is called with a node's name.

    A silent machine counts as lost when it has been so for the seconds that `patience` says, seen from here.
    """

    def __init__(self, changed: Callable[[str], None], patience: Callable[[], float]) -> None:
        self._changed = changed
        self._patience = patience
        self._silent: dict[str, asyncio.TimerHandle] = {}
        self._uids: dict[str, str] = {}
        self._trouble: dict[str, str] = {}
        self._left: Set[str] = frozenset()

    def trouble(self, name: str) -> str | None:
        """What is wrong with a machine; None when it speaks, or is not known."""
        return self._trouble.get(name)

    def put(self, thing: Json) -> None:
        meta = thing["metadata"]
        name = meta["name"]
        self._uids[name] = meta["uid"]
        why = silence(thing)
        if why is None or name in self._trouble:
            self._hear(name)
            self._set(name, why)
        elif name not in self._silent:
            self._wait_for(name, why, self._patience())

    def drop(self, thing: Json) -> None:
        name = thing["metadata"]["name"]
        self._hear(name)
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

    def close(self) -> None:
        for name in list(self._silent):
            self._hear(name)

    def _wait_for(self, name: str, why: str, seconds: float, waited: float = 0) -> None:
        loop = asyncio.get_running_loop()
        self._silent[name] = loop.call_later(seconds, self._lose, name, why, waited + seconds)

    def _lose(self, name: str, why: str, waited: float) -> None:
        del self._silent[name]
        # Meanwhile the API server may have been away, so that nobody could hear the machine speak.
        if (more := self._patience() - waited) > 0:
            self._wait_for(name, why, more, waited)
        else:
            self._set(name, why)

    def _hear(self, name: str) -> None:
        if timer := self._silent.pop(name, None):
            timer.cancel()

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


def silence(node: Json, *, longer_than: float = 0, now: datetime | None = None) -> str | None:
    """Why a machine is taken for lost. One that says itself that it is not ready speaks, and so do its agents.

    With `now`, only a silence counts that began, by the cluster's clock, `longer_than` seconds before it.
    """
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready":
            if condition.get("status") != "Unknown":
                return None
            since = condition.get("lastTransitionTime")
            if now is not None and since and now - datetime.fromisoformat(since) < timedelta(seconds=longer_than):
                return None
            return str(condition.get("message") or condition.get("reason") or "it is silent")
    # A machine that has only just come says nothing of itself, and has no agents.
    return None
