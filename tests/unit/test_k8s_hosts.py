"""When a machine counts as lost: silent for long, not silent for a moment, and never while it speaks."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k8s.hosts import AFTERMATH_SECONDS, SILENCE_SECONDS, Hosts, patience, silence

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def node(name: str, ready: str, since: datetime = NOW) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "message": "no word", "lastTransitionTime": since.isoformat()}
    return {"metadata": {"name": name, "uid": f"uid of {name}"}, "status": {"conditions": [condition]}}


async def test_only_who_stays_silent_is_lost() -> None:
    lost = asyncio.Queue[str]()
    hosts = Hosts(lost.put_nowait, lambda: 0.05)
    for name in ("speaks again", "leaves", "stays silent"):
        hosts.put(node(name, "Unknown"))
        hosts.put(node(name, "Unknown"))
    hosts.put(node("speaks again", "True"))
    hosts.drop(node("leaves", "Unknown"))
    assert lost.get_nowait() == "leaves"
    assert await asyncio.wait_for(lost.get(), 10) == "stays silent"
    hosts.put(node("a later one", "Unknown"))
    # Had the others' time run on, they would be told before this one.
    assert await asyncio.wait_for(lost.get(), 10) == "a later one"
    assert hosts.trouble("stays silent") == "no word"
    assert hosts.trouble("speaks again") is None
    hosts.put(node("stays silent", "True"))
    assert await asyncio.wait_for(lost.get(), 10) == "stays silent"
    assert hosts.trouble("stays silent") is None
    hosts.close()


async def test_time_in_which_nobody_could_be_heard_does_not_count_against_a_machine() -> None:
    lost, asked_again = asyncio.Queue[str](), asyncio.Event()
    patiences = iter([0.01, 60])

    def patience() -> float:
        found = next(patiences)
        if found == 60:  # the API server was away before the time was up
            asked_again.set()
        return found

    hosts = Hosts(lost.put_nowait, patience)
    hosts.put(node("speaks again", "Unknown"))
    await asyncio.wait_for(asked_again.wait(), 10)
    hosts.put(node("speaks again", "True"))
    assert lost.empty()
    assert hosts.trouble("speaks again") is None
    hosts.close()


@pytest.mark.parametrize(("seconds", "is_lost"), [(5, False), (19, False), (21, True)])
def test_silence_counts_by_how_long_the_cluster_has_known_of_it(seconds: int, is_lost: bool) -> None:
    since = NOW - timedelta(seconds=seconds)
    assert (silence(node("n", "Unknown", since), longer_than=20, now=NOW) is not None) is is_lost


def test_one_that_says_itself_that_it_is_not_ready_speaks() -> None:
    assert silence(node("n", "False")) is None


def test_machines_are_waited_for_longer_after_the_api_server_was_away_itself() -> None:
    assert patience(math.inf) == patience(AFTERMATH_SECONDS) == SILENCE_SECONDS
    assert patience(0) == patience(AFTERMATH_SECONDS - 1) == AFTERMATH_SECONDS > SILENCE_SECONDS
