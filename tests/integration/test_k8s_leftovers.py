"""What lives have left in a cluster: each kind of it is found and goes, and nothing that is somebody else's."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from activities.leftovers import Leftovers, Look
from activities.lives import LifeActivities
from core.db.engine import Db
from core.domain.timings import Timings
from core.runtime.base import AgentSpec
from core.settings import Auth, DefaultPool, Kubernetes, Settings
from k8s import objects
from k8s.runtime import KubernetesRuntime
from tests.fakes.api_server import ApiServer, api_server
from tests.fakes.lives import SimulatedLives
from tests.fixtures.kube import access

_NAMESPACE = "berth-agents"
_KINDS = ("secrets", "pods", "services", "persistentvolumeclaims")
_LONG_AGO = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Land:
    """A small API server, and one who makes agents' objects there."""

    def __init__(self, server: ApiServer, settings: Settings) -> None:
        self.server, self.settings = server, settings
        self.runtime = KubernetesRuntime(settings)

    def make(self, agent_id: str, *, installation: str = "berth", without: str = "", made: str = _LONG_AGO) -> None:
        """All that is made for an attempt, but for the kind `without`."""
        spec = AgentSpec(
            agent_id=agent_id,
            attempt=1,
            user_id="ann",
            project_id="shop",
            pool="default",
            template=self.settings.template("default"),
            backend_url="http://127.0.0.1",
            token=SecretStr("t"),
        )
        secret = self._put("secrets", objects.secret(spec, installation), made)
        self._put("pods", objects.pod(spec, installation, secret, Timings()), made)
        self._put("services", objects.service(spec, installation, secret), made)
        if without:
            self.server.remove(_path(without), secret["metadata"]["name"])

    def _put(self, kind: str, thing: dict[str, Any], made: str) -> dict[str, Any]:
        thing["metadata"]["creationTimestamp"] = made
        return self.server.put(_path(kind), thing)

    def left(self) -> dict[str, list[str]]:
        every = {kind: self.server.names(_path(kind)) for kind in _KINDS}
        return {kind: names for kind, names in every.items() if names}


def _path(kind: str) -> str:
    return f"/api/v1/namespaces/{_NAMESPACE}/{kind}"


@pytest_asyncio.fixture
async def land(tmp_path: Path) -> AsyncIterator[Land]:
    async with api_server() as server:
        cluster = Kubernetes(kubeconfig=access(tmp_path, server.url), namespace=_NAMESPACE, request_seconds=5)
        land = Land(server, Settings(auth=Auth(), pool=DefaultPool(runtime="kubernetes"), kubernetes=cluster))
        yield land
        await land.runtime.close()


async def swept(db: Db, land: Land) -> tuple[int, int]:
    """Removed, and left, by one look for objects."""
    lives = SimulatedLives(db, land.settings)
    acts = LifeActivities(db, land.settings, lives)  # type: ignore[arg-type]  # neither is asked anything here
    leftovers = Leftovers(db, lives, {"kubernetes": land.runtime}, acts, 10)  # type: ignore[arg-type]
    look = Look(at=datetime.now(UTC), settle=timedelta(seconds=10), rows={}, owners={})
    found, _ = await leftovers.remove_objects(look)
    return found.removed, found.stays


@pytest.mark.parametrize("gone", ["", "pods", "services", "secrets"])
async def test_what_an_agent_without_a_row_has_left_goes_whatever_of_it_is_gone_already(
    db: Db, land: Land, gone: str
) -> None:
    land.make("ag-stray", without=gone)
    assert await swept(db, land) == (1, 0)
    assert land.left() == {}
    assert await swept(db, land) == (0, 0)


async def test_profile_of_an_agent_that_is_gone_stays(db: Db, land: Land) -> None:
    claim = {"metadata": {"name": "profile-1", "labels": {"app": "agent-profile", "berth.dev/installation": "berth"}}}
    land.server.put(_path("persistentvolumeclaims"), claim)
    land.make("ag-stray")
    assert await swept(db, land) == (1, 0)
    assert land.left() == {"persistentvolumeclaims": ["profile-1"]}


async def test_what_is_another_installations_or_nobodys_stays(db: Db, land: Land) -> None:
    land.make("ag-theirs", installation="other")
    plain = {"metadata": {"name": "web", "labels": {"app": "agent"}, "creationTimestamp": _LONG_AGO}}
    land.server.put(_path("pods"), plain)
    # Our labels on a thing that says of no agent that it is its.
    posing = {"app": "agent", "berth.dev/installation": "berth"}
    land.server.put(
        _path("secrets"), {"metadata": {"name": "posing", "labels": posing, "creationTimestamp": _LONG_AGO}}
    )
    before = land.left()
    assert await swept(db, land) == (0, 0)
    assert land.left() == before


async def test_attempt_that_is_just_being_made_stays(db: Db, land: Land) -> None:
    land.make("ag-young", without="pods", made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    before = land.left()
    assert await swept(db, land) == (0, 0)
    assert land.left() == before


async def test_object_that_the_cluster_does_not_let_go_is_said_to_stay(db: Db, land: Land) -> None:
    land.make("ag-stray")
    land.server.refused[f"DELETE {_path('services')}/agent-ag-stray-1"] = 500
    assert await swept(db, land) == (0, 1)
    land.server.refused.clear()
    assert await swept(db, land) == (1, 0)
    assert land.left() == {}


async def test_count_of_what_is_there_reads_metadata_alone_and_names_what_a_list_does(land: Land) -> None:
    for number in range(250):
        land.make(f"ag-{number}", without="pods" if number % 5 == 0 else "")
    named = {(seen.agent_id, seen.attempt, seen.created_at) for seen in await land.runtime.present()}
    assert len(named) == 250
    assert named == {(seen.agent_id, seen.attempt, seen.created_at) for seen in await land.runtime.list()}
