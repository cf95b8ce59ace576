"""Words about agents go side by side, in order for each agent, and the trouble of one is nobody else's."""

import asyncio
from functools import partial

import pytest

from core.errors import Unavailable
from temporal.deliveries import Deliveries


async def test_words_of_different_agents_do_not_wait_for_one_another() -> None:
    second_arrived, done = asyncio.Event(), asyncio.Event()
    sent: list[str] = []

    async def first() -> None:
        await second_arrived.wait()
        sent.append("first")
        done.set()

    async def second() -> None:
        sent.append("second")
        second_arrived.set()

    async with asyncio.timeout(10), Deliveries() as deliveries:
        await deliveries.put("ag-1", first)
        await deliveries.put("ag-2", second)
        await done.wait()
    assert sent == ["second", "first"]


async def test_words_of_one_agent_arrive_in_the_order_they_came() -> None:
    sent: list[int] = []
    done = asyncio.Event()

    async def say(number: int) -> None:
        # The earlier, the longer it takes: without order the last would be first.
        for _ in range(20 - number):
            await asyncio.sleep(0)
        sent.append(number)
        if number == 19:
            done.set()

    async with asyncio.timeout(10), Deliveries() as deliveries:
        for number in range(20):
            await deliveries.put("ag-1", partial(say, number))
        await done.wait()
    assert sent == list(range(20))


async def test_whoever_tells_waits_while_as_many_are_under_way_as_may_be() -> None:
    gate, three = asyncio.Event(), asyncio.Event()
    begun = 0

    async def slow() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            three.set()
        await gate.wait()

    async with asyncio.timeout(10), Deliveries(at_once=3) as deliveries:
        for number in range(3):
            await deliveries.put(f"ag-{number}", slow)
        fourth = asyncio.create_task(deliveries.put("ag-4", slow))
        await three.wait()
        assert not fourth.done()
        gate.set()
        await fourth


@pytest.mark.parametrize("failures", [1, 4])
async def test_word_that_fails_is_tried_again_and_holds_up_only_its_own_agent(failures: int) -> None:
    sent: list[str] = []
    done = asyncio.Event()
    left = failures

    async def fails() -> None:
        nonlocal left
        if left:
            left -= 1
            raise Unavailable("no server", code="temporal_unavailable")
        sent.append("healed")

    async def say(what: str) -> None:
        sent.append(what)
        if what == "its next word":
            done.set()

    async with asyncio.timeout(10), Deliveries(pause_seconds=0.001) as deliveries:
        await deliveries.put("ag-1", fails)
        await deliveries.put("ag-1", partial(say, "its next word"))
        await deliveries.put("ag-2", partial(say, "another's"))
        await done.wait()
    assert sent == ["another's", "healed", "its next word"]


async def test_word_that_never_arrives_is_given_up_so_that_the_next_one_does() -> None:
    async def never() -> None:
        raise Unavailable("no server", code="temporal_unavailable")

    arrived = asyncio.Event()

    async def say() -> None:
        arrived.set()

    async with asyncio.timeout(10), Deliveries(at_once=2, pause_seconds=0.001) as deliveries:
        await deliveries.put("ag-1", never)
        await deliveries.put("ag-1", say)
        await arrived.wait()


async def test_what_was_not_sent_when_it_closes_is_dropped() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(10):
        async with Deliveries() as deliveries:
            await deliveries.put("ag-1", forever)
            await begun.wait()
        assert ended.is_set()


async def test_fault_of_our_own_is_raised_and_does_not_pass_for_an_outage() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    async def tell_on(deliveries: Deliveries) -> None:
        while True:
            await deliveries.put("ag-2", partial(asyncio.sleep, 0))
            await asyncio.sleep(0)

    async with asyncio.timeout(10), Deliveries() as deliveries:
        await deliveries.put("ag-1", broken)
        with pytest.raises(ValueError, match="a bug"):
            await tell_on(deliveries)
