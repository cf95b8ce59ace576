"""Of several that want to do a job, one does it; the next takes over when that one leaves, dies or is cut off."""

import asyncio
from functools import partial

import pytest

from k8s.lease import Lease, Terms, unique
from tests.fixtures.kube import LEASES, Kube, SmallKube
from tests.integration.waiting import until

NAME = "berth-watch-berth"
QUICK = Terms(duration=1, renew=0.2, retry=0.1, give_up=0.6, request=0.5)


class Job:
    """Work that goes on until cancelled, and keeps account of who was at it together with whom."""

    def __init__(self) -> None:
        self.at_it: list[str] = []
        self.turns: list[str] = []
        self.most = 0

    async def work(self, who: str) -> None:
        self.at_it.append(who)
        self.turns.append(who)
        self.most = max(self.most, len(self.at_it))
        try:
            await asyncio.Event().wait()
        finally:
            self.at_it.remove(who)


class Contender:
    def __init__(self, kube: Kube, job: Job, who: str, *, proxied: bool = False, terms: Terms = QUICK) -> None:
        self.who = who
        self.lease = Lease(kube.cluster(proxied=proxied), "agents", NAME, who, terms=terms)
        self.task = asyncio.create_task(self.lease.lead(lambda: job.work(who)))

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def asked_since(kube: SmallKube, before: int) -> bool:
    return len(kube.server.asked) > before


async def spec(kube: Kube) -> dict[str, object]:
    return dict((await kube.ask("GET", f"{LEASES}/{NAME}"))["spec"])


async def test_one_of_many_does_the_job_and_each_that_leaves_is_followed_by_one(kube: Kube) -> None:
    job = Job()
    waiting = {who: Contender(kube, job, who) for who in "abcde"}
    while waiting:
        await until(lambda: len(job.at_it) == 1)
        await waiting.pop(job.at_it[0]).leave()
    assert sorted(job.turns) == list("abcde")
    assert job.most == 1
    assert (await spec(kube))["holderIdentity"] == ""
    assert (await spec(kube))["leaseTransitions"] == 5


async def test_who_leaves_in_order_is_followed_before_its_lease_expires(kube: Kube) -> None:
    job, slow = Job(), Terms(duration=3600, renew=0.2, retry=0.1)
    first = Contender(kube, job, "a", terms=slow)
    await until(lambda: job.at_it == ["a"])
    second = Contender(kube, job, "b", terms=slow)
    await first.leave()
    await until(lambda: job.at_it == ["b"])
    await second.leave()


async def test_dead_holder_is_followed_when_its_lease_expires(kube: Kube) -> None:
    dead = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2026-11-25T20:00:00.000000Z"}
    await kube.ask("POST", LEASES, {"metadata": {"name": NAME}, "spec": dead})
    job = Job()
    heir = Contender(kube, job, "heir")
    await until(lambda: job.at_it == ["heir"])
    await heir.leave()


async def test_living_holder_whose_clock_is_behind_is_not_followed(small: SmallKube) -> None:
    """Another machine's idea of the time counts for nothing, only that the lease goes on changing."""
    job = Job()
    second: Contender | None = None
    for number in range(30):
        spec = {"holderIdentity": "first", "leaseDurationSeconds": 2, "renewTime": f"1999-01-01T00:00:{number:02}.0Z"}
        small.server.put(LEASES, {"metadata": {"name": NAME}, "spec": spec})
        second = second or Contender(small, job, "second")
        await until(partial(asked_since, small, len(small.server.asked)))
    assert second is not None
    assert job.turns == []
    await until(lambda: job.at_it == ["second"])  # renewed no more
    await second.leave()


@pytest.mark.parametrize("how", ["frozen", "cut"])
async def test_holder_that_is_cut_off_stops_before_another_begins(kube: Kube, how: str) -> None:
    job = Job()
    first = Contender(kube, job, "cut off", proxied=True)
    await until(lambda: job.at_it == ["cut off"])
    second = Contender(kube, job, "heir")
    if how == "frozen":
        kube.proxy.freeze()
    else:
        kube.proxy.refuse()
        await kube.proxy.reset()
    await until(lambda: job.at_it == ["heir"])
    kube.proxy.refuse(False)
    kube.proxy.thaw()
    await second.leave()
    await until(lambda: job.at_it == ["cut off"])
    assert job.turns == ["cut off", "heir", "cut off"]
    assert job.most == 1
    await first.leave()


async def test_holder_outlives_a_short_absence_of_the_api_server(small: SmallKube) -> None:
    job = Job()
    patient = Terms(duration=60, renew=0.1, retry=0.1, give_up=30, request=0.3)
    only = Contender(small, job, "a", terms=patient)
    await until(lambda: job.at_it == ["a"])
    await small.server.stop()
    before = len(small.server.asked)
    await small.server.start()
    await until(lambda: len(small.server.asked) > before + 2)
    assert job.turns == ["a"]
    assert job.at_it == ["a"]
    await only.leave()


async def test_error_of_the_work_is_not_swallowed_and_frees_the_lease(kube: Kube) -> None:
    async def broken() -> None:
        raise RuntimeError("a part of it is broken")

    lease = Lease(kube.cluster(), "agents", NAME, unique(), terms=QUICK)
    with pytest.raises(RuntimeError, match="broken"):
        await lease.lead(broken)
    assert (await spec(kube))["holderIdentity"] == ""


async def test_no_two_processes_have_a_name_in_common() -> None:
    assert len({unique() for _ in range(100)}) == 100
