"""Who has to leave when machines run short: as few as help, first those who miss it least."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.pressure import MOST_A_LOOK, Eviction, EvictReason, Resident, Response, respond
from core.domain.thresholds import Load, Look, Measure, Thresholds, over
from core.domain.tiers import Tier, rank

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = timedelta(minutes=15)
GIB = 1 << 30
LIMITS = Thresholds()


def look(before: frozenset[Measure] = frozenset(), **load: float | None) -> Look:
    seen = Load.model_validate(load)
    return Look(agents=0, load=seen, limits=LIMITS, over=over(seen, LIMITS, before))


def resident(name: str, *, away: float = 0, age: float = 60, tier: Tier = Tier.FREE, **more: bool | int) -> Resident:
    """`away` and `age` in minutes."""
    return Resident.model_validate(
        {
            "agent_id": name,
            "tier": tier,
            "started_at": NOW - timedelta(minutes=age),
            "last_activity_at": NOW - timedelta(minutes=away),
            "away_seconds": AWAY.total_seconds(),
            "memory_bytes": GIB,
            **more,
        }
    )


def asked(seen: Look, *residents: Resident, lasts: bool = False) -> Response:
    return respond(seen, residents, lasts=lasts, at=NOW)


def leaving(seen: Look, *residents: Resident, lasts: bool = False) -> list[str]:
    return [each.agent_id for each in asked(seen, *residents, lasts=lasts).evict]


SHORT = look(memory_percent=93.0)


def test_calm_machines_ask_nobody_for_anything() -> None:
    calm = look(cpu_percent=80, memory_percent=90, disk_percent=90)
    assert asked(calm, resident("a", away=60), lasts=True) == Response()


def test_busy_cpu_only_queues_who_is_new() -> None:
    found = asked(look(cpu_percent=99), resident("a", away=60), lasts=True)
    assert [each.measure for each in found.queue_new] == [Measure.CPU]
    assert (found.pressing, found.evict, found.clean_up) == (False, (), False)


def test_full_disk_is_cleared_and_nobody_leaves_for_it() -> None:
    found = asked(look(disk_percent=95), resident("a", away=60), lasts=True)
    assert found.clean_up
    assert found.evict == ()


def test_short_memory_asks_those_away_first_the_longest_first_with_reason_and_numbers() -> None:
    found = asked(
        SHORT, resident("here"), resident("short", away=14), resident("long", away=90), resident("b", away=20)
    )
    assert found.pressing
    assert found.evict == (
        Eviction(agent_id="long", reason=EvictReason.AWAY, detail="memory 93 % (limit 90 %); not used for 90 min"),
        Eviction(agent_id="b", reason=EvictReason.AWAY, detail="memory 93 % (limit 90 %); not used for 20 min"),
    )


def test_exactly_fifteen_minutes_is_not_away() -> None:
    assert leaving(SHORT, resident("a", away=15)) == []


def test_users_of_a_template_that_gives_them_longer_are_away_later() -> None:
    patient = resident("patient", away=60).model_copy(update={"away_seconds": 3601})
    assert leaving(SHORT, patient, resident("other", away=16)) == ["other"]


def test_user_who_watches_and_agent_with_a_task_are_not_away() -> None:
    assert leaving(SHORT, resident("watched", away=60, watched=True), resident("busy", away=60, busy=True)) == []


def test_nobody_present_leaves_at_the_first_look_and_the_oldest_of_the_lowest_tier_when_it_lasts() -> None:
    present = [
        resident("premium-old", age=900, tier=Tier.PREMIUM),
        resident("free-young", age=10),
        resident("free-old", age=500),
        resident("basic", age=800, tier=Tier.BASIC),
    ]
    assert leaving(SHORT, *present) == []
    assert leaving(SHORT, *present, lasts=True) == ["free-old", "free-young", "basic", "premium-old"]


def test_at_most_five_of_those_present_leave_a_look() -> None:
    crowd = [resident(f"a{n:02}", age=100 - n) for n in range(20)]
    assert leaving(SHORT, *crowd, lasts=True) == [f"a{n:02}" for n in range(5)]


def test_agent_with_a_task_leaves_only_when_no_other_choice_is_left() -> None:
    busy, idle = resident("busy", age=900, busy=True), resident("idle", age=1, tier=Tier.ENTERPRISE)
    assert leaving(SHORT, busy, idle, lasts=True) == ["idle", "busy"]
    others = [resident(f"i{n}", tier=Tier.ENTERPRISE) for n in range(MOST_A_LOOK)]
    assert "busy" not in leaving(SHORT, busy, *others, lasts=True)


def test_no_more_leave_than_would_help() -> None:
    # 8 points of 100 GiB over where the door opens: eight agents of one GiB.
    known = look(memory_percent=93.0, memory_bytes=100 * GIB)
    absent = [resident(f"a{n:02}", away=200 - n) for n in range(30)]
    assert leaving(known, *absent, lasts=True) == [f"a{n:02}" for n in range(8)]


def test_user_who_is_there_stays_where_it_would_not_help_if_all_agents_went() -> None:
    # Three points of 1,000 GiB are over the threshold, and agents hold 24 of these 30 GiB.
    shared = look(memory_percent=93.0, memory_bytes=1000 * GIB)
    away, present = [resident(f"a{n:02}", away=60) for n in range(4)], [resident(f"p{n:02}") for n in range(20)]
    assert leaving(shared, *away, *present, lasts=True) == [each.agent_id for each in away]
    more = [resident(f"m{n:02}") for n in range(6)]
    assert len(leaving(shared, *away, *present, *more, lasts=True)) == len(away) + MOST_A_LOOK


def test_who_is_leaving_already_counts_as_help() -> None:
    known = look(memory_percent=93.0, memory_bytes=100 * GIB)
    going = [resident(f"g{n}", leaving=True) for n in range(6)]
    absent = [resident(f"a{n}", away=60) for n in range(9)]
    assert leaving(known, *going, *absent) == ["a0", "a1"]
    assert leaving(SHORT, *going, *absent, lasts=True) == []


def test_where_nobody_knows_how_much_would_help_a_bounded_number_leaves() -> None:
    absent = [resident(f"a{n:02}", away=60) for n in range(30)]
    assert len(leaving(SHORT, *absent)) == MOST_A_LOOK


def test_door_that_is_still_shut_below_the_threshold_costs_nobody_an_agent() -> None:
    between = look(before=frozenset({Measure.MEMORY}), memory_percent=88.0)
    found = asked(between, resident("a", away=60), lasts=True)
    assert [each.measure for each in found.queue_new] == [Measure.MEMORY]
    assert (found.pressing, found.evict) == (False, ())


people = st.builds(
    lambda n, away, age, tier, busy, watched, going: resident(
        f"a{n}", away=away, age=age, tier=tier, busy=busy, watched=watched, leaving=going
    ),
    st.integers(0, 10_000),
    st.integers(0, 60),
    st.integers(0, 1000),
    st.sampled_from(Tier),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@pytest.mark.parametrize("whole", [None, 50 * GIB, 500 * GIB])
@given(crowd=st.lists(people, max_size=25, unique_by=lambda each: each.agent_id), lasts=st.booleans())
def test_those_who_stay_are_always_those_who_would_miss_it_more(
    whole: int | None, crowd: list[Resident], lasts: bool
) -> None:
    seen = look(memory_percent=95.0, memory_bytes=whole)
    found = asked(seen, *crowd, lasts=lasts)
    by_name = {each.agent_id: each for each in crowd}
    chosen = [by_name[each.agent_id] for each in found.evict]
    assert len({each.agent_id for each in chosen}) == len(chosen)
    assert not any(each.leaving for each in chosen)
    forced = [by_name[each.agent_id] for each in found.evict if each.reason is EvictReason.OLDEST]
    assert len(forced) <= MOST_A_LOOK
    assert lasts or not forced
    staying = [each for each in crowd if not each.leaving and each not in chosen]
    if any(each.busy for each in chosen):
        assert all(each.busy for each in staying)
    if forced:
        assert not any(NOW - each.last_activity_at > AWAY and not each.busy and not each.watched for each in staying), (
            "somebody away stays while somebody present goes"
        )
        worst = max((each.busy, -rank(each.tier), each.started_at) for each in forced)
        assert all((each.busy, -rank(each.tier), each.started_at) >= worst for each in staying)
    if whole is not None and chosen:
        needed = (95 - 85) / 100 * whole
        before_last = sum(each.memory_bytes for each in crowd if each.leaving or each in chosen[:-1])
        assert before_last < needed
