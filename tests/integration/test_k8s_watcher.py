"""What happens to agents in a cluster is told once, to everybody who watches, whatever happens to the connection."""

from collections.abc import Awaitable, Callable

import pytest

from core.domain.recovery import FailureKind
from core.runtime.base import Phase
from k8s import watcher as watching
from k8s.mirror import Pace
from k8s.observe import observation_of
from tests.fakes.pods import ended, pod, running, waiting
from tests.fixtures.kube import EVENTS, NODES, PODS, Kube, Log, SmallKube
from tests.integration.waiting import until

PROBE = {"berth.dev/ready-by": "probe"}


async def test_life_of_an_agent_is_told_step_by_step(kube: Kube) -> None:
    log = kube.log(kube.watcher())
    await kube.make("ag-1", annotations=PROBE, phase="Pending")
    await log.tells("ag-1", Phase.STARTING)
    await kube.status("ag-1", **running())
    await log.tells("ag-1", Phase.STARTED)
    await kube.status("ag-1", **running(ready=True))
    await log.tells("ag-1", Phase.READY)
    await kube.status("ag-1", **ended(1, message="ValueError: no"))
    failed = await log.tells("ag-1", Phase.EXITED)
    assert (failed.failure, failed.exit_code) == (FailureKind.CRASH, 1)
    assert "ValueError: no" in failed.detail
    await kube.remove("ag-1")
    gone = await log.tells("ag-1", Phase.GONE)
    assert (gone.user_id, gone.project_id, gone.failure) == ("ann@example.org", "project ü", None)
    assert log.phases("ag-1") == [Phase.STARTED, Phase.READY, Phase.EXITED, Phase.GONE]


async def test_what_changes_nothing_is_not_told(kube: Kube) -> None:
    log = kube.log(kube.watcher())
    await kube.make("ag-1", **running())
    for number in range(5):
        await kube.status("ag-1", **running() | {"message": str(number)})
    await kube.make("ag-2", **running())
    await log.tells("ag-2", Phase.STARTED)
    assert log.phases("ag-1") == [Phase.STARTED]


async def test_other_pods_in_the_namespace_are_not_ours(small: SmallKube) -> None:
    await small.make("stray", annotations={"berth.dev/agent-id": ""}, **running())
    small.server.put(PODS, {"metadata": {"name": "theirs", "labels": {"app": "agent"}}, "status": {}})
    log = small.log(small.watcher())
    await small.make("ag-1", **running())
    await log.tells("ag-1", Phase.STARTED)
    await small.remove("stray")
    await small.remove("ag-1")
    await log.tells("ag-1", Phase.GONE)
    assert {seen.agent_id for seen in log.told} == {"ag-1"}


async def test_all_watchers_share_one_stream_and_see_the_same(kube: Kube) -> None:
    watcher = kube.watcher(Pace(watch=60, silence=60))
    logs = [kube.log(watcher) for _ in range(5)]
    await kube.make("ag-1", **running())
    await logs[0].tells("ag-1", Phase.STARTED)
    await kube.status("ag-1", **ended(75))
    await kube.remove("ag-1")
    for log in logs:
        await log.tells("ag-1", Phase.GONE)
        assert log.told == logs[0].told
    assert watcher.pods.lists == 1


async def test_who_watches_late_is_told_the_changes_of_the_last_seconds(kube: Kube) -> None:
    watcher = kube.watcher()
    first = kube.log(watcher)
    await kube.make("ag-1", **running())
    await first.tells("ag-1", Phase.STARTED)
    await kube.remove("ag-1")
    await first.tells("ag-1", Phase.GONE)
    late = kube.log(watcher)
    await late.tells("ag-1", Phase.GONE)


@pytest.mark.parametrize("seconds_ago", [0, 60])
async def test_agent_that_went_between_a_list_and_the_streams_own_is_told_as_gone(
    kube: Kube, seconds_ago: float
) -> None:
    await kube.make("ag-1", **running())
    watcher = kube.watcher()
    then = watcher.now() - seconds_ago
    watcher.listed(observation_of(pod(name="one", agent_id="ag-1", **running())), then)
    watcher.listed(observation_of(pod(name="two", agent_id="ag-2", **running())), then)
    log = kube.log(watcher)
    await log.tells("ag-2", Phase.GONE)
    await log.tells("ag-1", Phase.STARTED)
    assert log.phases("ag-1") == [Phase.STARTED]


async def test_agent_that_a_list_saw_after_the_streams_own_had_begun_is_not_told_as_gone(kube: Kube) -> None:
    await kube.make("ag-1", **running())
    watcher = kube.watcher()
    watcher.listed(observation_of(pod(agent_id="ag-new", **running())), watcher.now() + 60)
    log = kube.log(watcher)
    await log.tells("ag-1", Phase.STARTED)
    await kube.remove("ag-1")
    await log.tells("ag-1", Phase.GONE)
    assert log.of("ag-new") == []


# ---- trouble on the way --------------------------------------------------------------------------------------------


async def cut(kube: Kube) -> Callable[[], Awaitable[None]]:
    kube.proxy.refuse()
    await kube.proxy.drop()

    async def mend() -> None:
        kube.proxy.refuse(False)

    return mend


async def reset(kube: Kube) -> Callable[[], Awaitable[None]]:
    kube.proxy.refuse()
    await kube.proxy.reset()

    async def mend() -> None:
        kube.proxy.refuse(False)

    return mend


async def frozen(kube: Kube) -> Callable[[], Awaitable[None]]:
    """Connections stay open and say nothing: what was on its way is lost with them."""
    kube.proxy.freeze()

    async def mend() -> None:
        await kube.proxy.reset()
        kube.proxy.thaw()

    return mend


async def frozen_for_ever(kube: Kube) -> Callable[[], Awaitable[None]]:
    """The connection of the watch never speaks again; only a new one would be served."""
    kube.proxy.freeze_open()

    async def mend() -> None:
        pass

    return mend


@pytest.mark.parametrize("trouble", [cut, reset, frozen, frozen_for_ever])
async def test_nothing_is_missed_when_the_watch_breaks(
    kube: Kube, trouble: Callable[[Kube], Awaitable[Callable[[], Awaitable[None]]]]
) -> None:
    log = await three_agents(kube)
    mend = await trouble(kube)
    await one_ends_one_goes_one_comes(kube)
    await mend()
    await nothing_was_missed(log)


async def test_nothing_is_missed_while_the_api_server_is_away_and_forgets(small: SmallKube) -> None:
    log = await three_agents(small)
    await small.server_away()
    await one_ends_one_goes_one_comes(small)
    small.server.forget()
    await small.server_back()
    await nothing_was_missed(log)


async def test_nothing_is_missed_when_the_api_server_crashes_and_comes_back(kube: Kube) -> None:
    log = await three_agents(kube)
    kube.proxy.freeze_open()  # so that what happens before the crash is not told
    await one_ends_one_goes_one_comes(kube)
    await kube.server_away()
    await kube.server_back()
    await nothing_was_missed(log)


async def three_agents(kube: Kube) -> Log:
    names = ("ag-ends", "ag-goes", "ag-stays")
    for agent_id in names:
        await kube.make(agent_id, **running())
    log = kube.log(kube.watcher())
    for agent_id in names:
        await log.tells(agent_id, Phase.STARTED)
    return log


async def one_ends_one_goes_one_comes(kube: Kube) -> None:
    await kube.status("ag-ends", **ended(75))
    await kube.remove("ag-goes")
    await kube.make("ag-comes", **running())


async def nothing_was_missed(log: Log) -> None:
    assert (await log.tells("ag-ends", Phase.EXITED)).failure is FailureKind.CRASH
    await log.tells("ag-goes", Phase.GONE)
    await log.tells("ag-comes", Phase.STARTED)
    assert log.phases("ag-stays") == [Phase.STARTED]


async def test_forgotten_version_means_a_new_list_and_nothing_missed(small: SmallKube) -> None:
    await small.make("ag-1", **running())
    watcher = small.watcher(Pace(watch=1, silence=2, pause=0.05))
    log = small.log(watcher)
    await log.tells("ag-1", Phase.STARTED)
    await small.status("ag-1", **ended(75))
    small.server.forget()
    await log.tells("ag-1", Phase.EXITED)
    small.server.put("/api/v1/elsewhere", {"metadata": {"name": "x"}})
    small.server.forget()
    await until(lambda: watcher.pods.lists > 1)
    assert log.phases("ag-1") == [Phase.STARTED, Phase.EXITED]


async def test_quiet_watch_goes_on_where_it_was_without_a_new_list(small: SmallKube) -> None:
    watcher = small.watcher()
    log = small.log(watcher)
    await small.make("ag-1", **running())
    await log.tells("ag-1", Phase.STARTED)
    await until(lambda: small.server.asked.count(f"GET {PODS}?watch") > 2)  # a second each
    await small.status("ag-1", **ended(75))
    await log.tells("ag-1", Phase.EXITED)
    assert watcher.pods.lists == 1
    assert watcher.age_seconds is not None


async def test_list_is_made_anew_when_it_is_due(kube: Kube) -> None:
    watcher = kube.watcher(Pace(relist=0.2, watch=1, silence=2, pause=0.05))
    log = kube.log(watcher)
    await kube.make("ag-1", **running())
    await log.tells("ag-1", Phase.STARTED)
    await until(lambda: watcher.pods.lists > 2)
    assert log.phases("ag-1") == [Phase.STARTED]


async def test_list_longer_than_a_page_is_told_whole(small: SmallKube) -> None:
    for number in range(1100):
        await small.make(f"ag-{number}", **running())
    log = small.log(small.watcher(Pace(watch=30, silence=31)))
    await log.until(lambda: len(log.told) == 1100, "1100 agents")
    assert {seen.phase for seen in log.told} == {Phase.STARTED}


# ---- machines ------------------------------------------------------------------------------------------------------


async def test_machine_that_does_not_answer_takes_its_agents_along_and_brings_them_back(kube: Kube) -> None:
    for node in ("node-1", "node-2"):
        await kube.node(node, "True")
    await kube.make("ag-1", node="node-1", **running())
    await kube.make("ag-2", node="node-2", **running())
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.STARTED)
    await log.tells("ag-2", Phase.STARTED)
    await kube.node("node-1", "Unknown", "Kubelet stopped posting node status.")
    lost = await log.tells("ag-1", Phase.EXITED)
    assert lost.failure is FailureKind.HOST_LOST
    assert lost.detail == "its machine node-1 does not answer: Kubelet stopped posting node status"
    await kube.node("node-1", "True")
    await log.tells("ag-1", Phase.STARTED, times=2)
    await kube.delete(NODES, "node-2")
    assert (await log.tells("ag-2", Phase.EXITED)).failure is FailureKind.HOST_LOST


async def test_machine_that_is_called_silent_for_a_moment_keeps_its_agents(kube: Kube) -> None:
    """As all are when the API server comes back: until each has spoken again."""
    await kube.node("node-1", "True")
    for agent_id in ("ag-1", "ag-2"):
        await kube.make(agent_id, node="node-1", **running())
    log = kube.log(kube.watcher(silence_seconds=60))
    await log.tells("ag-2", Phase.STARTED)
    await kube.node("node-1", "Unknown", "Kubelet stopped posting node status.")
    await kube.node("node-1", "True")
    await kube.remove("ag-2")
    await log.tells("ag-2", Phase.GONE)
    assert log.phases("ag-1") == [Phase.STARTED]


async def test_agent_whose_end_was_seen_is_not_lost_with_its_machine_later(kube: Kube) -> None:
    await kube.node("node-1", "True")
    await kube.make("ag-1", node="node-1", **ended(75))
    await kube.make("ag-2", node="node-1", **running())
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.EXITED)
    await log.tells("ag-2", Phase.STARTED)
    await kube.node("node-1", "Unknown", "Kubelet stopped posting node status.")
    await log.tells("ag-2", Phase.EXITED)
    assert [seen.failure for seen in log.of("ag-1")] == [FailureKind.CRASH]


async def test_machine_that_says_itself_that_it_is_not_ready_loses_no_agent(kube: Kube) -> None:
    for node in ("node-1", "node-2"):
        await kube.node(node, "True")
    await kube.make("ag-1", node="node-1", **running())
    await kube.make("ag-2", node="node-2", **running())
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.STARTED)
    await kube.node("node-1", "False", "container runtime is down")
    # Told after it on the same watch: by then the first would have been told too.
    await kube.node("node-2", "Unknown", "Kubelet stopped posting node status.")
    await log.tells("ag-2", Phase.EXITED)
    assert log.phases("ag-1") == [Phase.STARTED]


async def test_nodes_that_may_not_be_read_keep_nobody_from_watching_agents(small: SmallKube) -> None:
    small.server.refused[f"GET {NODES}"] = 403
    log = small.log(small.watcher())
    await small.make("ag-1", node="node-1", **running())
    await log.tells("ag-1", Phase.STARTED)


# ---- words that only events have -----------------------------------------------------------------------------------


async def test_agent_killed_for_not_answering_is_told_once_and_so(kube: Kube) -> None:
    await kube.make("ag-1", **running())
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.STARTED)
    await kube.event("ag-1", "Unhealthy", "Liveness probe failed: timeout")
    await kube.event("ag-1", "Killing", "Stopping container agent")
    await kube.status("ag-1", **ended(137))
    assert (await log.tells("ag-1", Phase.EXITED)).failure is FailureKind.HEALTH
    await kube.remove("ag-1")
    await log.tells("ag-1", Phase.GONE)
    assert log.phases("ag-1") == [Phase.STARTED, Phase.EXITED, Phase.GONE]


async def test_events_that_cannot_be_read_delay_no_bad_news(small: SmallKube) -> None:
    small.server.refused[f"GET {EVENTS}"] = 500
    await small.make("ag-1", **ended(137))
    log = small.log(small.watcher())
    assert (await log.tells("ag-1", Phase.EXITED)).failure is FailureKind.CRASH


async def test_sandbox_that_cannot_be_made_is_found_out_though_the_status_never_changes(
    kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_FIRST_QUESTION_SECONDS", 0.1)
    monkeypatch.setattr(watching, "_NEXT_QUESTION_SECONDS", 0.1)
    await kube.make("ag-1", **waiting("ContainerCreating"))
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.STARTING)
    await kube.event(
        "ag-1", "FailedCreatePodSandBox", 'failed to get sandbox runtime: no runtime for "runsc" is configured'
    )
    found = await log.tells("ag-1", Phase.EXITED)
    assert found.failure is FailureKind.CANNOT_START
    assert "runsc" in found.detail


async def test_agents_that_come_up_as_usual_cost_no_question(small: SmallKube) -> None:
    log = small.log(small.watcher())
    for number in range(20):
        await small.make(f"ag-{number}", **waiting("ContainerCreating"))
        await small.status(f"ag-{number}", **running())
    for number in range(20):
        await log.tells(f"ag-{number}", Phase.STARTED)
    assert f"GET {EVENTS}" not in small.server.asked


# ---- our own doing -------------------------------------------------------------------------------------------------


async def test_agent_that_we_delete_is_told_when_it_is_gone_and_not_as_a_failure(kube: Kube) -> None:
    await kube.make("ag-1", node="node-1", **running())
    log = kube.log(kube.watcher())
    await log.tells("ag-1", Phase.STARTED)
    await kube.deleting("ag-1")
    await kube.status("ag-1", **ended(143))
    await kube.status("ag-1", **ended(137))
    await kube.remove("ag-1")
    await log.tells("ag-1", Phase.GONE)
    assert log.phases("ag-1") == [Phase.STARTED, Phase.GONE]


async def test_closed_watcher_ends_its_watches(kube: Kube) -> None:
    watcher = kube.watcher()
    stream = watcher.watch()
    await watcher.close()
    with pytest.raises(Exception, match="closed"):
        await anext(stream)
    assert watcher.age_seconds is None
