"""The decision: every combination of quota, hardware and place gives the one answer of the specification's matrix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.admission import (
    Check,
    Create,
    Decision,
    Queue,
    QueueReason,
    Reject,
    RejectReason,
    Standing,
    decide,
    examine,
)
from core.domain.room import Room, Snapshot, Starts, free_slots, grantable_slots
from core.domain.thresholds import Load, Look, Thresholds, over
from core.domain.tiers import Tier

WELL = Standing(tier=Tier.FREE, limit=1, living=0, ending=0, subscription_active=True)
ROOM = Room(holders=0, waiting=0, capacity=5, cluster_free=5, max_waiting=10)

standings = st.builds(
    lambda limit, current, ending, active, same: Standing(
        tier=Tier.BASIC,
        limit=limit,
        living=current + ending,
        ending=ending,
        subscription_active=active,
        same_project_ending=same,
    ),
    st.integers(0, 5),
    st.integers(0, 6),
    st.integers(0, 6),
    st.booleans(),
    st.booleans(),
)
rooms = st.builds(
    Room,
    holders=st.integers(0, 6),
    waiting=st.integers(0, 4),
    capacity=st.none() | st.integers(0, 6),
    cluster_free=st.none() | st.integers(-2, 6),
    paused=st.booleans(),
    choked=st.booleans(),
    refused=st.booleans(),
    max_waiting=st.integers(0, 3),
    starts=st.builds(Starts, now=st.integers(0, 4), most=st.none() | st.integers(1, 3)),
    starts_in_cluster=st.builds(Starts, now=st.integers(0, 4), most=st.none() | st.integers(1, 3)),
)


def reject(reason: RejectReason, action: str) -> Reject:
    return Reject(reason=reason, action=action)


OVER_QUOTA = reject(RejectReason.MAX_AGENTS, "upgrade_subscription")
UNPAID = reject(RejectReason.SUBSCRIPTION, "renew_subscription")


CALM = Load(cpu_percent=40, memory_percent=50, disk_percent=60, nodes=3)
# Rule, then hardware, then node: the specification's matrix, a line for each way through it.
RULES: dict[str, tuple[dict[str, object], Decision | None]] = {
    "below quota": ({}, None),
    "over quota": ({"living": 1}, OVER_QUOTA),
    "unpaid": ({"subscription_active": False}, UNPAID),
    "project full": (
        {"project_limit": 5, "project_living": 5},
        reject(RejectReason.MAX_PROJECT_AGENTS, "retry_later"),
    ),
}
CHOKED, NO_NODE = Queue(reason=QueueReason.CHOKED), Queue(reason=QueueReason.NO_NODE)
HARDWARE: dict[str, tuple[dict[str, object], Decision | None]] = {
    "calm": ({}, None),
    "cpu at 85": ({"cpu_percent": 85}, None),
    "cpu over 85": ({"cpu_percent": 85.1}, CHOKED),
    "memory over 90": ({"memory_percent": 90.1}, CHOKED),
    "disk over 90": ({"disk_percent": 90.1}, Queue(reason=QueueReason.DISK)),
    "no machine": ({"nodes": 0}, CHOKED),
    "not measured": ({"cpu_percent": None, "memory_percent": None, "disk_percent": None}, None),
}
NODES: dict[str, tuple[dict[str, object], Decision | None]] = {
    "fits": ({}, None),
    "no node has room": ({"cluster_free": 0}, NO_NODE),
    "pool full": ({"holders": 5}, NO_NODE),
    "scheduler refused": ({"refused": True}, NO_NODE),
}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("rule", RULES)
def test_rule_goes_before_hardware_and_hardware_before_node(rule: str, hardware: str, node: str) -> None:
    by_rule, by_hardware, by_node = RULES[rule][1], HARDWARE[hardware][1], NODES[node][1]
    load, limits = CALM.model_copy(update=HARDWARE[hardware][0]), Thresholds()
    look = Look(agents=0, load=load, limits=limits, over=over(load, limits))
    room = ROOM.model_copy(update={"look": look, "choked": look.choked, **NODES[node][0]})
    standing = WELL.model_copy(update=RULES[rule][0])
    assert decide(standing, room) == (by_rule or by_hardware or by_node or Create())


def test_template_that_no_machine_could_ever_run_is_refused_at_once_and_not_queued() -> None:
    room = ROOM.model_copy(update={"too_large": "it asks for 900 cores", "choked": True, "paused": True})
    assert decide(WELL, room) == reject(RejectReason.TOO_LARGE, "choose_smaller_template")
    assert decide(WELL.model_copy(update={"living": 1}), room) == OVER_QUOTA
    numbers = {each.check: each.numbers for each in examine(WELL, room)}
    assert numbers[Check.TEMPLATE] == {"detail": "it asks for 900 cores"}


def test_agent_that_is_not_ending_is_nobodys_previous_one() -> None:
    def gone(**standing: object) -> bool:
        examined = examine(WELL.model_copy(update=standing), ROOM)
        return next(each.passed for each in examined if each.check is Check.PREVIOUS)

    assert gone(living=1)
    assert not gone(living=1, ending=1)
    assert not gone(limit=3, living=1, ending=1, same_project_ending=True)


def test_check_of_the_cluster_tells_each_use_beside_its_limit_and_what_is_over() -> None:
    load = CALM.model_copy(update={"memory_percent": 93.42, "network_mbit": 120.0})
    look = Look(agents=0, load=load, limits=Thresholds(), over=over(load, Thresholds()))
    found = {each.check: each for each in examine(WELL, ROOM.model_copy(update={"look": look, "choked": True}))}
    assert not found[Check.CLUSTER].passed
    assert found[Check.CLUSTER].numbers == {
        "known": True,
        "choked": True,
        "snapshot": "fresh",
        "cpuPercent": 40,
        "cpuLimit": 85,
        "memoryPercent": 93.4,
        "memoryLimit": 90,
        "diskPercent": 60,
        "diskLimit": 90,
        "nodes": 3,
        "networkMbit": 120,
        "networkLimit": None,
        "over": "memory 93 % (limit 90 %)",
    }


@pytest.mark.parametrize("snapshot", [Snapshot.STALE, Snapshot.UNKNOWN])
def test_look_that_is_old_or_missing_queues_and_says_so(snapshot: Snapshot) -> None:
    room = ROOM.model_copy(update={"snapshot": snapshot, "cluster_free": None, "capacity": 5})
    assert decide(WELL, room) == CHOKED
    found = {each.check: each for each in examine(WELL, room)}
    assert found[Check.CLUSTER].numbers == {"known": False, "choked": False, "snapshot": snapshot.value}
    assert free_slots(room) == 0


@pytest.mark.parametrize(
    ("standing", "room", "expected"),
    [
        ({}, {}, Create()),
        ({"subscription_active": False}, {}, UNPAID),
        ({"subscription_active": False, "living": 9}, {"choked": True}, UNPAID),
        ({"limit": 0}, {}, OVER_QUOTA),
        ({"living": 1, "ending": 1}, {}, Queue(reason=QueueReason.PREVIOUS_ENDING)),
        ({"living": 2, "ending": 1}, {}, OVER_QUOTA),
        ({"limit": 3, "living": 1, "ending": 1}, {}, Create()),
        (
            {"limit": 3, "living": 1, "ending": 1, "same_project_ending": True},
            {},
            Queue(reason=QueueReason.PREVIOUS_ENDING),
        ),
        ({}, {"paused": True}, Queue(reason=QueueReason.PAUSED)),
        ({}, {"cluster_free": None}, Queue(reason=QueueReason.CHOKED)),
        ({}, {"capacity": None}, Queue(reason=QueueReason.CHOKED)),
        ({}, {"cluster_free": 0}, Queue(reason=QueueReason.NO_NODE)),
        ({}, {"cluster_free": -3}, Queue(reason=QueueReason.NO_NODE)),
        ({}, {"waiting": 1}, Queue(reason=QueueReason.AHEAD)),
        ({}, {"starts": Starts(now=2, most=2)}, Queue(reason=QueueReason.STARTING)),
        ({}, {"starts": Starts(now=3, most=2), "holders": 5}, Queue(reason=QueueReason.NO_NODE)),
        ({}, {"starts": Starts(now=1, most=2)}, Create()),
        ({}, {"starts": Starts(now=99), "starts_in_cluster": Starts(now=99)}, Create()),
        ({}, {"starts_in_cluster": Starts(now=4, most=4)}, Queue(reason=QueueReason.STARTING)),
        ({}, {"choked": True, "waiting": 10}, reject(RejectReason.QUEUE_FULL, "retry_later")),
    ],
)
def test_single_causes(standing: dict[str, object], room: dict[str, object], expected: Decision) -> None:
    assert decide(WELL.model_copy(update=standing), ROOM.model_copy(update=room)) == expected


@given(standings, rooms)
def test_nobody_gets_more_than_their_tier_allows_and_nothing_gets_more_than_fits(
    standing: Standing, room: Room
) -> None:
    match decide(standing, room):
        case Create():
            assert standing.subscription_active
            assert standing.living < standing.limit
            assert not standing.same_project_ending
            assert grantable_slots(room) > 0
            assert room.waiting == 0
        case Queue():
            assert standing.subscription_active
            assert standing.living - standing.ending < standing.limit
            assert room.waiting < room.max_waiting
        case Reject(reason=reason):
            if reason is RejectReason.QUEUE_FULL:
                assert room.waiting >= room.max_waiting
            else:
                assert not standing.subscription_active or standing.living - standing.ending >= standing.limit


@pytest.mark.parametrize(
    ("room", "free", "grantable"),
    [
        ({}, 5, 5),
        ({"starts": Starts(now=1, most=3)}, 5, 2),
        ({"starts": Starts(now=4, most=3)}, 5, 0),
        ({"starts": Starts(now=1, most=9), "starts_in_cluster": Starts(now=7, most=8)}, 5, 1),
        ({"starts": Starts(now=0, most=9), "holders": 3}, 2, 2),
        ({"starts": Starts(now=0, most=9), "paused": True}, 0, 0),
    ],
)
def test_no_more_are_granted_than_may_start_though_more_have_a_place(
    room: dict[str, object], free: int, grantable: int
) -> None:
    found = ROOM.model_copy(update=room)
    assert (free_slots(found), grantable_slots(found)) == (free, grantable)


def test_check_of_starts_tells_only_of_limits_that_are_set() -> None:
    def told(**room: object) -> dict[str, object]:
        found = {each.check: each for each in examine(WELL, ROOM.model_copy(update=room))}
        return dict(found[Check.STARTS].numbers)

    assert told(starts=Starts(now=3), starts_in_cluster=Starts(now=4)) == {}
    assert told(starts=Starts(now=3, most=2), starts_in_cluster=Starts(now=4, most=8)) == {
        "starting": 3,
        "maxStarting": 2,
        "startingInCluster": 4,
        "maxStartingInCluster": 8,
    }


@given(rooms)
def test_free_slots_never_exceed_what_pool_or_cluster_has(room: Room) -> None:
    free = free_slots(room)
    assert free >= 0
    if free:
        assert room.capacity is not None
        assert room.cluster_free is not None
        assert room.holders + free <= room.capacity
        assert free <= room.cluster_free
        assert not room.paused
        assert not room.choked
        assert not room.refused
