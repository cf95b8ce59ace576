"""The same on a real cluster: between the calls that make and remove a pod, its secret and its service."""

from pathlib import Path

import pytest

from tests.chaos.rehearsal import rehearsal, write_places
from tests.chaos.report import Report
from tests.chaos.series import Series
from tests.chaos.victims import VICTIMS
from tests.fixtures.kubernetes import Land

# There is no host: agents live on whatever is killed here.
_VICTIMS = [victim for victim in VICTIMS if "host" not in victim]

# Each flow has a pod of its own, or two.
_PLACES = 6


@pytest.mark.chaos
@pytest.mark.needs("cluster")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", [*_VICTIMS])
@pytest.mark.parametrize("flow", ["one_life", "beginning_anew"])
async def test_a_flow_of_pods_ends_the_same_whatever_is_harmed_at_any_boundary(
    land: Land, tmp_path: Path, chaos_report: Report, flow: str, victim: str
) -> None:
    given = land.given(tmp_path, land.template())
    template = land.template().model_dump(mode="json")
    write_places(Path(given["CONFIG"]), "kubernetes", _PLACES, template, apart=False)
    async with rehearsal(tmp_path / "data", "kubernetes", **given) as stack:
        series = Series(stack, flow, victim)
        await series.harmed(await series.boundaries(), chaos_report)
        assert land.names() == []
