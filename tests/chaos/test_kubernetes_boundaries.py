"""The same on a real cluster: between the calls that make and remove a pod, its secret and its service."""

from pathlib import Path

import pytest

from tests.chaos.rehearsal import rehearsal, write_places
from tests.chaos.report import Report
from tests.chaos.series import PATIENT, Series
from tests.chaos.victims import VICTIMS_OF_PODS
from tests.fixtures.kubernetes import Land

# Each flow has a pod of its own, or two.
_PLACES = 6


@pytest.mark.chaos
@pytest.mark.needs("cluster")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS_OF_PODS)
@pytest.mark.parametrize("flow", ["one_life", "beginning_anew"])
async def test_a_flow_of_pods_ends_the_same_whatever_is_harmed_at_any_boundary(
    land: Land, tmp_path: Path, chaos_report: Report, flow: str, victim: str
) -> None:
    given = land.given(tmp_path, land.template())
    template = land.template().model_dump(mode="json")
    write_places(Path(given["CONFIG"]), "kubernetes", _PLACES, template, apart=False)
    async with rehearsal(tmp_path / "data", "kubernetes", **given, **PATIENT) as stack:
        series = Series(stack, flow, VICTIMS_OF_PODS[victim])
        await series.harmed(await series.boundaries(), chaos_report)
        assert land.names() == []
