"""Room of a cluster whose templates do not all ask for the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.room import Mix, Room, Starts, fitting, free_slots, line_slots
from core.domain.room import overfull as is_overfull
from core.domain.templates import Resources, Template, asking_alike
from core.domain.thresholds import Fit, Load, Look, Thresholds

SMALL = Fit(templates=("small", "other small"), more=28, cpu=0.5, memory_mib=512)
LARGE = Fit(templates=("large",), more=3, cpu=0.5, memory_mib=4096)
MIX = Mix(fits=(SMALL, LARGE), seen={}, taken={}, total=28)
ROOM = Room(holders=0, waiting=9, capacity=28, cluster_free=28, bounded=False, mix=MIX, max_waiting=10)


def free(mix: Mix) -> tuple[int, int]:
    return mix.free("small"), mix.free("large")


def test_each_template_has_the_room_that_was_counted_for_it() -> None:
    assert free(MIX) == (28, 3)
    assert MIX.free("other small") == 28
    assert MIX.free("unheard of") == 28, "of one that was not counted the total is all that is known"


def test_who_came_since_the_look_takes_places_as_it_is_large_and_one_at_least() -> None:
    assert free(MIX.with_one("large")) == (20, 2)
    assert free(MIX.with_one("small").with_one("other small")) == (26, 1)
    assert free(MIX.with_one("unheard of")) == (27, 2)


def test_whom_the_look_saw_takes_no_place_twice() -> None:
    seen = MIX.model_copy(update={"seen": {"small": 5, "gone from the settings": 2}, "taken": {"small": 5}})
    assert free(seen) == (28, 3)
    assert free(seen.with_one("small")) == (27, 2)


def test_who_went_makes_room_for_its_like_at_once_and_for_others_with_the_next_look() -> None:
    full = MIX.model_copy(
        update={
            "fits": (SMALL.model_copy(update={"more": 0}), LARGE.model_copy(update={"more": 0})),
            "seen": {"small": 8, "large": 2},
        }
    )
    assert full.model_copy(update={"taken": {"small": 8, "large": 2}}).full()
    assert free(full.model_copy(update={"taken": {"small": 7, "large": 2}})) == (1, 0)
    assert free(full.model_copy(update={"taken": {"small": 7, "other small": 1, "large": 2}})) == (0, 0)
    assert free(full.model_copy(update={"taken": {"small": 8, "large": 1}})) == (0, 1)


def test_more_hold_a_slot_than_there_is_room_for_only_when_all_they_ask_for_is_not_there() -> None:
    def overfull(template: str, **taken: int) -> bool:
        mix = MIX.model_copy(update={"taken": taken})
        return is_overfull(
            ROOM.model_copy(update={"mix": mix, "template": template, "cluster_free": mix.free(template)})
        )

    assert not overfull("large", large=3)
    assert overfull("large", large=4)
    # Where they lie nobody knows yet, which keeps others out, and takes nobody's slot away.
    assert MIX.model_copy(update={"taken": {"large": 1, "small": 12}}).free("large") < 0
    assert not overfull("large", large=1, small=12)
    assert overfull("large", large=1, small=21)
    assert overfull("small", large=1, small=21)
    assert not overfull("small", large=1, small=20)
    assert overfull("unheard of", small=29)


@given(
    st.integers(0, 24),
    st.lists(st.tuples(st.sampled_from(["come"] * 8 + ["go", "look"]), st.integers(0, 2)), min_size=20, max_size=60),
)
def test_no_order_of_coming_and_going_puts_more_on_a_machine_than_it_has(
    machine: int, steps: list[tuple[str, int]]
) -> None:
    sizes = (1, 3, 8)
    here = dict.fromkeys(("a", "b", "c"), 0)

    def used() -> int:
        return sum(size * number for size, number in zip(sizes, here.values(), strict=True))

    def look() -> Mix:
        left = machine - used()
        fits = tuple(
            Fit(templates=(name,), more=left // size, cpu=0.1, memory_mib=size)
            for name, size in zip(here, sizes, strict=True)
        )
        return Mix(fits=fits, seen=dict(here), taken=dict(here), total=left + sum(here.values()))

    mix = look()
    for what, which in steps:
        name = "abc"[which]
        match what:
            case "look":
                mix = look()
            case "go" if here[name]:
                here[name] -= 1
            case "come" if mix.free(name) > 0:
                here[name] += 1
        mix = mix.model_copy(update={"taken": dict(here)})
        assert used() <= machine


def test_line_is_served_in_order_and_the_first_without_a_place_holds_up_the_rest() -> None:
    assert line_slots(ROOM, 50) == 50
    assert fitting(ROOM, ["large"] * 5) == 3
    assert fitting(ROOM, ["large", "small", "large", "large", "small"]) == 3
    assert fitting(ROOM, ["small"] * 40) == 28
    full = ROOM.model_copy(update={"mix": MIX.model_copy(update={"fits": (SMALL, LARGE), "taken": {"large": 3}})})
    assert fitting(full, ["large", "small"]) == 0
    assert fitting(full, ["small", "small", "small", "small", "small"]) == 4


def test_one_that_no_machine_could_run_holds_up_nobody() -> None:
    look = Look(agents=0, load=Load(), limits=Thresholds(), too_large={"huge": "too much"})
    room = ROOM.model_copy(update={"look": look})
    assert fitting(room, ["huge", "large", "huge", "small"]) == 4


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({"bounded": True, "capacity": 5, "holders": 3}, 2),
        ({"bounded": True, "capacity": 5, "holders": 9}, 0),
        ({"starts": Starts(now=1, most=3)}, 2),
        ({"paused": True}, 0),
        ({"choked": True}, 0),
        ({"refused": True}, 0),
        ({"cluster_free": 0}, 50),
        ({"mix": None}, 28),
        ({"mix": None, "cluster_free": 0}, 0),
        ({"mix": MIX.model_copy(update={"fits": (LARGE.model_copy(update={"more": 0}),)})}, 0),
    ],
)
def test_pool_gives_the_line_no_more_than_its_own_capacity_and_starts(changes: dict[str, object], slots: int) -> None:
    assert line_slots(ROOM.model_copy(update=changes), 50) == slots


def test_free_slots_are_of_the_template_that_is_asked_for() -> None:
    assert free_slots(ROOM) == 28
    assert free_slots(ROOM.model_copy(update={"cluster_free": MIX.free("large")})) == 3


def test_templates_that_ask_for_the_same_are_counted_once() -> None:
    usual, other = Template(), Template(image="localhost/other:1", environment={"A": "1"})
    large = Template(resources=Resources(memory_mib=4096, memory_limit_mib=4096))
    resized = Template(resources=Resources(memory_most_mib=8192))
    assert asking_alike({"a": usual, "b": large, "c": other, "d": resized}) == [("a", "c", "d"), ("b",)]
    assert asking_alike({}) == []
