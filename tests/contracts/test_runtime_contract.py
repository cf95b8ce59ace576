"""What every runtime promises, shown on each of them: simulated and real, directly and through the host supervisor."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from pydantic import SecretStr

from core.domain.sizes import MOST_MIB, size_of
from core.errors import NeverSatisfiable, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Handle, Phase
from core.tokens import hash_token
from tests.contracts.runtime_suite import WAIT, Rig, watching
from tests.contracts.runtime_suite import rig as open_rig
from tests.contracts.runtime_suite_kubernetes import kubernetes_rig

_AGENT = pytest.mark.needs("agent")


@pytest.fixture(
    scope="session",
    params=[
        "memory",
        "memory through host",
        pytest.param("process", marks=_AGENT),
        pytest.param("process through host", marks=_AGENT),
        pytest.param("kubernetes", marks=pytest.mark.needs("cluster")),
    ],
)
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    if request.param == "kubernetes":
        async with kubernetes_rig(request.getfixturevalue("lands")()) as made:
            yield made
        return
    async with open_rig(request.param, tmp_path_factory.mktemp("runtime") / "data") as made:
        yield made


async def made(rig: Rig, spec: AgentSpec) -> Handle:
    return (await rig.runtime.create(spec)).handle


async def usable(rig: Rig, spec: AgentSpec) -> None:
    """Return when a real agent answers where `reach` says; a simulated one has nothing to answer with."""
    if not rig.has_address:
        return
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(WAIT):
        while True:
            try:
                reach = await rig.runtime.reach(spec.agent_id, spec.attempt)
                assert reach.token == spec.token
                if (await client.get(f"{reach.api_url}/health")).status_code == 200:
                    return
            except (httpx2.TransportError, RuntimeRetryable):
                pass  # it does not listen yet, or has no address yet
            await asyncio.sleep(0.05)


async def made_deaf(rig: Rig) -> AgentSpec:
    """An agent that hears nothing but SIGKILL: told to be so, or stopped once it would have listened."""
    spec = rig.stubborn(rig.spec())
    handle = await made(rig, spec)
    await usable(rig, spec)
    rig.deafen(handle)
    return spec


async def listed(rig: Rig, agent_id: str) -> list[tuple[int, Phase]]:
    return [(seen.attempt, seen.phase) for seen in await rig.runtime.list() if seen.agent_id == agent_id]


async def test_created_twice_is_one_agent_with_its_first_token(rig: Rig) -> None:
    spec = rig.spec(token=SecretStr("first"))
    answers = [
        await rig.runtime.create(spec) for spec in (spec, spec.model_copy(update={"token": SecretStr("second")}))
    ]
    assert answers[0] == answers[1]
    assert answers[0].token_hash == hash_token("first")
    assert len(await listed(rig, spec.agent_id)) == 1
    await rig.runtime.delete(spec.agent_id, 1)


async def test_created_many_times_at_once_is_one_agent(rig: Rig) -> None:
    spec = rig.spec()
    answers = await asyncio.gather(*(rig.runtime.create(spec) for _ in range(20)))
    assert len({answer.model_dump_json() for answer in answers}) == 1
    assert len(await listed(rig, spec.agent_id)) == 1
    await rig.runtime.delete(spec.agent_id, 1)


async def test_agent_that_never_was_is_gone_and_deleting_it_is_success(rig: Rig) -> None:
    assert (await rig.runtime.observe("ag-never", 1)).phase is Phase.GONE
    await rig.runtime.delete("ag-never", 1)
    await rig.runtime.delete("ag-never", 1, 5)
    assert (await rig.runtime.observe("ag-never", 1)).phase is Phase.GONE


async def test_observation_says_whose_agent_it_is(rig: Rig) -> None:
    spec = rig.spec()
    handle = await made(rig, spec)
    seen = await rig.runtime.observe(spec.agent_id, 1)
    assert (seen.user_id, seen.project_id, seen.handle) == (spec.user_id, spec.project_id, handle)
    assert seen.phase in {Phase.STARTING, Phase.STARTED, Phase.READY}
    assert seen.created_at is not None
    await rig.runtime.delete(spec.agent_id, 1)


@pytest.mark.parametrize("grace", [0, 10])
async def test_delete_returns_when_nothing_is_left(rig: Rig, grace: float) -> None:
    spec = rig.spec()
    await made(rig, spec)
    await usable(rig, spec)
    assert rig.remains(spec) != [] or not rig.has_address
    async with watching(rig.runtime) as watch:
        await rig.runtime.delete(spec.agent_id, 1, grace)
        assert rig.remains(spec) == []
        assert (await rig.runtime.observe(spec.agent_id, 1)).phase is Phase.GONE
        assert await listed(rig, spec.agent_id) == []
        gone = await watch.sees(spec.agent_id, Phase.GONE)
        assert (gone.user_id, gone.project_id) == (spec.user_id, spec.project_id)
    await rig.runtime.delete(spec.agent_id, 1, grace)


async def test_agent_that_will_not_go_is_killed_after_its_grace(rig: Rig) -> None:
    spec = await made_deaf(rig)
    began = asyncio.get_running_loop().time()
    await rig.runtime.delete(spec.agent_id, 1, 0.5)
    assert 0.45 <= asyncio.get_running_loop().time() - began < WAIT
    assert rig.remains(spec) == []


async def test_impatient_delete_overtakes_a_patient_one(rig: Rig) -> None:
    spec = await made_deaf(rig)
    grace = 300 if rig.shortens_grace else WAIT / 2
    patient = asyncio.create_task(rig.runtime.delete(spec.agent_id, 1, grace))
    await asyncio.sleep(0)  # the patient one is asked first
    async with asyncio.timeout(WAIT):
        await rig.runtime.delete(spec.agent_id, 1, 0)
        await patient
    assert (await rig.runtime.observe(spec.agent_id, 1)).phase is Phase.GONE


async def test_agent_that_fails_is_seen_with_its_reason(rig: Rig) -> None:
    spec = rig.failing(rig.spec())
    async with watching(rig.runtime) as watch:
        handle = await made(rig, spec)
        rig.fail(handle)
        seen = await watch.sees(spec.agent_id, Phase.EXITED)
    assert seen.failure is rig.fails_with
    assert seen.exit_code not in {None, 0}
    assert rig.remains(spec) == []
    later = await rig.runtime.observe(spec.agent_id, 1)
    assert (later.phase, later.failure) == (Phase.EXITED, rig.fails_with)
    assert (await rig.runtime.create(spec)).handle == handle
    await rig.runtime.delete(spec.agent_id, 1)
    assert await listed(rig, spec.agent_id) == []


async def test_profile_has_one_writer_and_the_next_attempt_may_follow(rig: Rig) -> None:
    first = rig.failing(rig.spec())
    second = first.model_copy(update={"attempt": 2, "template": rig.spec().template})
    async with watching(rig.runtime) as watch:
        handle = await made(rig, first)
        with pytest.raises(RuntimeRetryable):
            await rig.runtime.create(second)
        rig.fail(handle)
        await watch.sees(first.agent_id, Phase.EXITED)
        await made(rig, second)
    # Taking the first away must not touch the second, which has the same profile and account.
    await rig.runtime.delete(first.agent_id, 1)
    assert [number for number, _ in await listed(rig, first.agent_id)] == [2]
    assert (await rig.runtime.observe(first.agent_id, 2)).phase is not Phase.EXITED
    with pytest.raises(RuntimeRetryable):
        await rig.runtime.delete_profile(first.user_id, first.project_id)
    await rig.runtime.delete(first.agent_id, 2)
    await rig.runtime.delete_profile(first.user_id, first.project_id)
    await rig.runtime.delete_profile(first.user_id, first.project_id)


async def test_other_life_of_the_same_project_waits_for_the_profile(rig: Rig) -> None:
    first = rig.spec()
    other = rig.spec(user_id=first.user_id, project_id=first.project_id)
    await made(rig, first)
    with pytest.raises(RuntimeRetryable):
        await rig.runtime.create(other)
    await rig.runtime.delete(first.agent_id, 1)
    await made(rig, other)
    await rig.runtime.delete(other.agent_id, 1)


async def test_what_changes_between_list_and_watch_is_not_lost(rig: Rig) -> None:
    async with watching(rig.runtime):
        pass  # a watch that broke
    before, between = rig.spec(), rig.spec()
    await made(rig, before)
    assert await listed(rig, before.agent_id) != []
    await made(rig, between)
    async with watching(rig.runtime) as watch:
        await watch.sees(between.agent_id, (await rig.runtime.observe(between.agent_id, 1)).phase)
    for spec in (before, between):
        await rig.runtime.delete(spec.agent_id, 1)


async def test_two_watchers_see_the_same(rig: Rig) -> None:
    spec = rig.spec()
    async with watching(rig.runtime) as one, watching(rig.runtime) as other:
        await made(rig, spec)
        await rig.runtime.delete(spec.agent_id, 1)
        await one.sees(spec.agent_id, Phase.GONE)
        await other.sees(spec.agent_id, Phase.GONE)


async def test_each_agent_takes_one_place(rig: Rig) -> None:
    empty = await rig.runtime.capacity()
    assert empty.fits is not None
    specs = [rig.spec(), rig.spec()]
    for number, spec in enumerate(specs, start=1):
        await made(rig, spec)
        now = await rig.runtime.capacity()
        assert (now.fits, now.agents) == (empty.fits - number, empty.agents + number)
    for spec in specs:
        await rig.runtime.delete(spec.agent_id, 1)
    after = await rig.runtime.capacity()
    assert (after.fits, after.agents) == (empty.fits, empty.agents)


async def test_room_is_told_for_each_size_that_is_asked_for(rig: Rig) -> None:
    """Or in one number, by a runtime whose agents all take one place."""
    usual, spec = rig.template, rig.spec()
    twice = usual.resources.model_copy(update={"memory_mib": usual.resources.memory_mib * 2})
    wanted = {"usual": usual, "large": usual.model_copy(update={"resources": twice})}
    before = await rig.runtime.capacity(wanted)
    assert before.fits is not None
    assert set(before.fits_of) in (set(), set(wanted))
    await made(rig, spec)
    now = await rig.runtime.capacity(wanted)
    assert (now.fits, now.agents) == (before.fits - 1, before.agents + 1)
    if now.fits_of:
        assert now.fits_of["usual"] == now.fits
        assert 0 <= now.fits_of["large"] <= now.fits_of["usual"]
        assert set(now.here) - set(before.here) == {spec.agent_id}
    await rig.runtime.delete(spec.agent_id, 1)


async def test_agent_becomes_usable(rig: Rig) -> None:
    """The runtime says READY itself, or the agent answers where `reach` says."""
    spec = rig.spec()
    async with watching(rig.runtime) as watch:
        await made(rig, spec)
        if not rig.has_address:
            await watch.sees(spec.agent_id, Phase.READY)
            assert (await rig.runtime.observe(spec.agent_id, 1)).phase is Phase.READY
    await usable(rig, spec)
    await rig.runtime.delete(spec.agent_id, 1, 10)


async def test_agent_gets_another_limit_while_it_goes_on(rig: Rig) -> None:
    spec = rig.spec()
    await made(rig, spec)
    await usable(rig, spec)
    first = size_of(spec.template.resources)
    before = await rig.runtime.observe(spec.agent_id, 1)
    if rig.has_address and rig.memory_limit(spec) is None:
        with pytest.raises(RuntimePermanent, match="does not let Berth limit the memory"):
            await rig.runtime.resize(spec.agent_id, 1, first.model_copy(update={"memory_mib": 2048}))
        await rig.runtime.delete(spec.agent_id, 1)
        return
    size = first
    for memory in (2 * first.memory_mib, 2 * first.memory_mib, first.memory_mib):
        was, size = size, first.model_copy(update={"memory_mib": memory})
        resized = await rig.runtime.resize(spec.agent_id, 1, size)
        assert (resized.before, resized.waits_for) == (was, "")
        assert rig.memory_limit(spec) in {memory, None}
    await usable(rig, spec)
    after = await rig.runtime.observe(spec.agent_id, 1)
    assert (after.handle, after.created_at) == (before.handle, before.created_at)
    assert after.phase is not Phase.EXITED
    await rig.runtime.delete(spec.agent_id, 1)


async def test_template_beyond_every_machine_is_known_without_making_it(rig: Rig) -> None:
    spec = rig.spec()
    await rig.runtime.check(spec.template)
    for beyond in ({"cpu": 100_000.0, "cpu_limit": 100_000.0}, {"memory_mib": 1 << 40, "memory_limit_mib": 1 << 40}):
        resources = spec.template.resources.model_copy(update=beyond)
        with pytest.raises(NeverSatisfiable):
            await rig.runtime.check(spec.template.model_copy(update={"resources": resources}))
    assert await listed(rig, spec.agent_id) == []


async def test_limit_beyond_every_machine_is_refused_and_changes_nothing(rig: Rig) -> None:
    spec = rig.spec()
    await made(rig, spec)
    await usable(rig, spec)
    first = size_of(spec.template.resources)
    for beyond in ({"cpu": 100_000.0}, {"memory_mib": MOST_MIB}):
        with pytest.raises(NeverSatisfiable):
            await rig.runtime.resize(spec.agent_id, 1, first.model_copy(update=beyond))
    assert (await rig.runtime.resize(spec.agent_id, 1, first)).before == first
    await rig.runtime.delete(spec.agent_id, 1)


async def test_agent_moves_only_where_another_machine_would_take_it(rig: Rig) -> None:
    spec = rig.spec()
    await made(rig, spec)
    await usable(rig, spec)
    if not rig.has_others:
        with pytest.raises(RuntimePermanent):
            await rig.runtime.elsewhere(spec.agent_id, 1, spec.template)
        await rig.runtime.delete(spec.agent_id, 1)
        return
    node = await rig.runtime.elsewhere(spec.agent_id, 1, spec.template)
    assert (await rig.runtime.observe(spec.agent_id, 1)).node == node
    await rig.runtime.delete(spec.agent_id, 1)
    await made(rig, spec.model_copy(update={"attempt": 2, "away_from": node}))
    assert (await rig.runtime.observe(spec.agent_id, 2)).node not in {node, ""}
    await rig.runtime.delete(spec.agent_id, 2)


async def test_agent_that_is_not_there_is_neither_resized_nor_moved(rig: Rig) -> None:
    spec = rig.spec()
    for _ in range(2):
        with pytest.raises(RuntimePermanent):
            await rig.runtime.resize(spec.agent_id, 1, size_of(spec.template.resources))
        with pytest.raises(RuntimePermanent):
            await rig.runtime.elsewhere(spec.agent_id, 1, spec.template)
        await made(rig, spec)
        await rig.runtime.delete(spec.agent_id, 1)


async def test_agent_that_is_not_there_cannot_be_reached(rig: Rig) -> None:
    with pytest.raises(RuntimePermanent):
        await rig.runtime.reach("ag-never", 1)
    spec = rig.spec()
    await made(rig, spec)
    await rig.runtime.delete(spec.agent_id, 1)
    with pytest.raises(RuntimePermanent):
        await rig.runtime.reach(spec.agent_id, 1)


async def test_log_is_there_and_following_it_ends_with_the_agent(rig: Rig) -> None:
    assert [chunk async for chunk in rig.runtime.logs("ag-never")] == []
    spec = rig.spec()
    await made(rig, spec)
    begun = asyncio.Event()

    async def follow() -> bytes:
        text = b""
        async for chunk in rig.runtime.logs(spec.agent_id, follow=True):
            text += chunk
            begun.set()
        return text

    following = asyncio.create_task(follow())
    async with asyncio.timeout(WAIT):
        await begun.wait()
        now = b"".join([chunk async for chunk in rig.runtime.logs(spec.agent_id)])
        assert b"attempt 1" in now
        await rig.runtime.delete(spec.agent_id, 1)
        assert (await following).startswith(now[:20])
