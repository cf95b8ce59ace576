"""What a look at a machine stores of the room on it, in the sizes that its templates ask for."""

from collections.abc import Mapping
from datetime import UTC, datetime

from core.db.engine import Db
from core.db.repositories import clusters
from core.domain.templates import MIB, Pool, Resources, Template
from core.domain.thresholds import Fit, Look
from core.runtime.base import ClusterCapacity
from core.runtime.machine import Claim, fits
from core.settings import Auth, Settings
from temporal.sampler import Sampler
from tests.fakes.lives import SimulatedLives

GIB = 1024 * MIB
LARGE = Template(resources=Resources(memory_mib=4096, memory_limit_mib=4096))
POOL = Pool(runtime="machine", cluster="far")


class _Sixteen:
    """A machine of 64 cores and 16 GiB, as the runtime `process` counts it."""

    def __init__(self) -> None:
        self.living: list[Claim] = []
        self.asked: list[list[str]] = []

    async def capacity(self, wanted: Mapping[str, Template]) -> ClusterCapacity:
        self.asked.append(list(wanted))
        room = {
            name: fits(each.resources, self.living, cores=64, memory=16 * GIB, available=16 * GIB)
            for name, each in wanted.items()
        }
        here = tuple(claim.agent_id for claim in self.living)
        return ClusterCapacity(fits=next(iter(room.values())), agents=len(here), fits_of=room, here=here)

    async def check(self, template: Template) -> None:
        pass


async def look(db: Db, machine: _Sixteen, templates: dict[str, Template], **pools: Pool) -> Look:
    update = {"pools": {"default": POOL, **pools}, "templates": templates}
    settings = Settings(auth=Auth()).model_copy(update=update)
    runtimes = {"machine": machine, "nowhere": _Sixteen()}
    await Sampler(settings, runtimes, db, SimulatedLives(db, settings)).look()  # type: ignore[arg-type]
    async with db.transaction() as session:
        found = await clusters.last_look(session, "far")
    assert found is not None
    return found


async def free(db: Db, template: str) -> int | None:
    async with db.transaction() as session:
        return (await clusters.room(session, "default", POOL, datetime.now(UTC), 10, template)).cluster_free


async def test_machine_whose_usual_template_is_large_has_room_for_three_and_not_for_28(db: Db) -> None:
    seen = await look(db, _Sixteen(), {"default": LARGE})
    assert (seen.fits, await free(db, "default")) == ((), 3)


async def test_each_size_is_counted_and_templates_of_one_size_once(db: Db) -> None:
    machine, other = _Sixteen(), Template(image="localhost/other:1")
    elsewhere = Pool(runtime="nowhere", cluster="elsewhere", template="theirs")
    templates = {"large": LARGE, "other": other, "theirs": Template(resources=Resources(cpu=8))}
    seen = await look(db, machine, templates, side=POOL.model_copy(update={"template": "large"}), away=elsewhere)
    assert machine.asked == [["default", "large"]], "in the usual one first, and in none of another cluster's"
    assert seen.fits == (
        Fit(templates=("default", "other"), more=28, cpu=0.5, memory_mib=512),
        Fit(templates=("large",), more=3, cpu=0.5, memory_mib=4096),
    )
    assert [await free(db, each) for each in ("default", "other", "large")] == [28, 28, 3]


async def test_agent_of_nobody_takes_its_place_and_gives_none(db: Db) -> None:
    machine = _Sixteen()
    machine.living.append(Claim(LARGE.resources, 0, "ag-nobodys"))
    seen = await look(db, machine, {"large": LARGE})
    assert (seen.agents, seen.seen) == (1, {})
    assert [await free(db, each) for each in ("default", "large")] == [20, 2]
