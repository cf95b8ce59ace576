"""Whatever call of the runtime an API server refuses, once and in whatever way: the next try ends as if it had not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from core.errors import RuntimeRetryable
from core.runtime.base import AgentSpec
from k8s.client import Cluster
from k8s.faults import Refusal, fault_of
from tests.fixtures.kubernetes import Land

pytestmark = pytest.mark.needs("cluster")

T = TypeVar("T")
TRIES = 100
PAUSE = 0.1
POSTS = 4  # Secret, claim, Pod, Service
ANY = {"429": (429, "TooManyRequests"), "500": (500, "InternalError"), "409 conflict": (409, "Conflict")}
# A server that says so of what is there would lie; of what is to be made, its namespace or a name in the way may be so.
OF_POST = {"404": (404, "NotFound"), "409 exists": (409, "AlreadyExists")}


class Refuser:
    """Stands before every call of the client: refuses the n-th (of a method) that comes after `refuse`; notes all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._left, self._method = -1, ""
        self._refusal = Refusal(code=500)
        usual = Cluster.call

        async def call(cluster: Cluster, method: str, path: str, *, doing: str, **more: Any) -> Any:
            self.calls.append(method)
            if method.startswith(self._method):
                self._left -= 1
                if self._left == -1:
                    raise fault_of(self._refusal, doing)
            return await usual(cluster, method, path, doing=doing, **more)

        monkeypatch.setattr(Cluster, "call", call)

    def refuse(self, number: int, code: int, reason: str, method: str = "") -> None:
        self._left, self._method, self._refusal = (
            number,
            method,
            Refusal(code=code, reason=reason, message="told to refuse it"),
        )

    def never(self) -> None:
        self._left = -1


@pytest.fixture
def refuser(monkeypatch: pytest.MonkeyPatch) -> Refuser:
    return Refuser(monkeypatch)


def placed_nowhere(land: Land) -> AgentSpec:
    """No node has it, so it goes as soon as it is told to."""
    return land.spec(template=land.template({"node_selector": {"nobody": "has"}, "profile": {"size": "1Mi"}}))


async def tried(work: Callable[[], Awaitable[T]]) -> T:
    """As an activity does: again, after a pause, while the fault is one that may pass."""
    for _ in range(TRIES):
        try:
            return await work()
        except RuntimeRetryable:
            await asyncio.sleep(PAUSE)
    return await work()


def whole(name: str) -> list[str]:
    return [f"{kind}/{name}" for kind in ("pod", "secret", "service")]


@pytest.mark.parametrize("refusal", OF_POST)
async def test_create_ends_whole_whatever_it_is_refused_to_make(land: Land, refuser: Refuser, refusal: str) -> None:
    spec = placed_nowhere(land)
    for number in range(POSTS):
        refuser.refuse(number, *OF_POST[refusal], method="POST")
        name = (await tried(lambda: land.open().create(spec))).handle.native["pod"]
        refuser.never()
        assert land.names() == whole(name)
        await land.open().delete(spec.agent_id, 1)
    assert refuser.calls.count("POST") > POSTS * POSTS, "each was refused, and made by a further try"


@pytest.mark.chaos
@pytest.mark.parametrize("refusal", ANY)
async def test_create_and_delete_end_whole_whichever_of_their_calls_is_refused(
    land: Land, refuser: Refuser, refusal: str
) -> None:
    spec, runtime = placed_nowhere(land), land.open()
    name = (await runtime.create(spec)).handle.native["pod"]
    creating, refuser.calls = refuser.calls, []
    await runtime.delete(spec.agent_id, 1)
    deleting = refuser.calls
    assert (creating.count("POST"), deleting.count("DELETE")) == (POSTS, 3)
    for number in range(len(creating)):
        refuser.refuse(number, *ANY[refusal])
        await tried(lambda: land.open().create(spec))
        refuser.never()
        assert land.names() == whole(name)
        await land.open().delete(spec.agent_id, 1)
    for number in range(len(deleting)):
        await tried(lambda: land.open().create(spec))
        refuser.refuse(number, *ANY[refusal])
        await tried(lambda: land.open().delete(spec.agent_id, 1))
        refuser.never()
        assert land.names() == []
