"""Whoever makes or removes an agent may die between any two calls: the next try ends where the first would have."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from core.runtime.base import AgentSpec, Phase
from core.tokens import hash_token
from k8s.client import Cluster
from k8s.runtime import KubernetesRuntime
from tests.fixtures.kubernetes import Land

pytestmark = pytest.mark.needs("cluster")

_CHANGES = frozenset({"POST", "DELETE"})
# Creating makes a Secret, a claim, a Pod and a Service; removing takes three of them away.
MOMENTS = range(1, 5)


class Died(BaseException):
    """As a process that is killed: nothing that would handle an error runs to any effect."""


@pytest.fixture
def dies_after(monkeypatch: pytest.MonkeyPatch):
    """From the n-th change of the cluster on, whose answer is lost, no call of this process is made any more."""
    usual, made = Cluster.call, 0

    def die_after(number: int) -> None:
        nonlocal made
        made = 0

        async def call(self: Cluster, method: str, path: str, **more: Any) -> Any:
            nonlocal made
            if made >= number:
                raise Died
            if method in _CHANGES:
                made += 1
                if made == number:
                    await usual(self, method, path, **more)
                    raise Died
            return await usual(self, method, path, **more)

        monkeypatch.setattr(Cluster, "call", call)

    yield die_after
    monkeypatch.undo()


def as_told(land: Land) -> AgentSpec:
    return land.spec(template=land.template({"profile": {"size": "1Mi"}}), token=SecretStr("first"))


async def perish(work: Any) -> None:
    await asyncio.gather(work, return_exceptions=True)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_create_cut_off_anywhere_is_finished_by_the_next_with_the_first_ones_token(
    land: Land, dies_after: Any, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    spec, runtime = as_told(land), land.open()
    dies_after(moment)
    await perish(runtime.create(spec))
    monkeypatch.undo()
    # Whatever the first one got done, the attempt is on the books, so that a reaper would find it.
    assert [(seen.agent_id, seen.phase) for seen in await runtime.list()] == [(spec.agent_id, Phase.STARTING)]
    created = await land.open().create(spec.model_copy(update={"token": SecretStr("second")}))
    assert created.token_hash == hash_token("first")
    name = created.handle.native["pod"]
    assert land.names() == [f"pod/{name}", f"secret/{name}", f"service/{name}"]
    await land.open().delete(spec.agent_id, 1)
    assert land.names() == []


@pytest.mark.parametrize("moment", MOMENTS)
async def test_what_a_create_left_behind_can_be_removed_whole(
    land: Land, dies_after: Any, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    spec = as_told(land)
    dies_after(moment)
    await perish(land.open().create(spec))
    monkeypatch.undo()
    await land.open().delete(spec.agent_id, 1)
    assert land.names() == []


@pytest.mark.parametrize("moment", range(1, 4))
async def test_a_delete_cut_off_anywhere_is_finished_by_the_next(
    land: Land, dies_after: Any, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    spec, runtime = land.spec(), land.open()
    await runtime.create(spec)
    dies_after(moment)
    await perish(runtime.delete(spec.agent_id, 1))
    monkeypatch.undo()
    await finished(land.open(), spec)
    assert land.names() == []


async def finished(runtime: KubernetesRuntime, spec: AgentSpec) -> None:
    await runtime.delete(spec.agent_id, 1)
    assert (await runtime.observe(spec.agent_id, 1)).phase is Phase.GONE
