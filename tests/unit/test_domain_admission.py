"""The decision: every combination of quota, hardware and place gives the one answer of the specification's matrix."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.admission import (
    Create,
    Decision,
    Queue,
    QueueReason,
    Reject,
    RejectReason,
    Room,
    Standing,
    decide,
    free_slots,
)
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
    max_waiting=st.integers(0, 3),
)


def reject(reason: RejectReason, action: str) -> Reject:
    return Reject(reason=reason, action=action)


OVER_QUOTA = reject(RejectReason.MAX_AGENTS, "upgrade_subscription")
UNPAID = reject(RejectReason.SUBSCRIPTION, "renew_subscription")


@pytest.mark.parametrize(
    ("over_quota", "choked", "full"),
    list(itertools.product([False, True], repeat=3)),
    ids=lambda on: "x" if on else "-",
)
def test_rule_goes_before_hardware_and_hardware_before_place(over_quota: bool, choked: bool, full: bool) -> None:
    standing = WELL.model_copy(update={"living": 1 if over_quota else 0})
    room = ROOM.model_copy(update={"choked": choked, "holders": 5 if full else 0})
    expected: Decision = Create()
    if full:
        expected = Queue(reason=QueueReason.NO_NODE)
    if choked:
        expected = Queue(reason=QueueReason.CHOKED)
    if over_quota:
        expected = OVER_QUOTA
    assert decide(standing, room) == expected


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
            assert free_slots(room) > 0
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
