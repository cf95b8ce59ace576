"""Words about agents go side by side, in order for each agent, and the trouble of one is nobody else's."""

import asyncio
from functools import partial

import pytest
from temporalio.service import RPCError, RPCStatusCode

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


async def test_so_many_are_sent_at_once_and_no_more() -> None:
    gate, three = asyncio.Event(), asyncio.Event()
    begun = 0

    async def slow() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            three.set()
        await gate.wait()
        assert begun <= 4

    async with asyncio.timeout(10), Deliveries(at_once=3) as deliveries:
        for number in range(4):
            await deliveries.put(f"ag-{number}", slow)
        await three.wait()
        await asyncio.sleep(0)
        assert begun == 3
        gate.set()
    assert begun == 4


async def test_whoever_tells_waits_while_as_many_are_kept_as_may_be() -> None:
    gate = asyncio.Event()
    async with asyncio.timeout(10), Deliveries(most_kept=3) as deliveries:
        for number in range(3):
            await deliveries.put(f"ag-{number % 2}", gate.wait)
        fourth = asyncio.create_task(deliveries.put("ag-4", gate.wait))
        await asyncio.sleep(0)
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


async def test_words_of_one_agent_that_fail_take_no_place_from_anothers() -> None:
    async def never() -> None:
        raise Unavailable("no server", code="temporal_unavailable")

    arrived = asyncio.Event()

    async def say() -> None:
        arrived.set()

    async def tell() -> None:
        async with Deliveries(at_once=1, pause_seconds=60) as deliveries:
            for _ in range(4):
                await deliveries.put("ag-1", never)
            await deliveries.put("ag-2", say)

    telling = asyncio.create_task(tell())
    await asyncio.wait_for(arrived.wait(), 10)
    telling.cancel()
    await asyncio.wait([telling])


def said_no(status: RPCStatusCode) -> RPCError:
    return RPCError("exceeded workflow execution limit for signal events", status, b"")


@pytest.mark.parametrize("error", [said_no(RPCStatusCode.INVALID_ARGUMENT), ValueError("a bug")], ids=str)
async def test_word_that_no_second_try_would_mend_is_left_and_every_other_is_sent(error: Exception) -> None:
    sent: list[str] = []
    done = asyncio.Event()

    async def refused() -> None:
        sent.append("refused")
        raise error

    async def say(what: str) -> None:
        sent.append(what)
        if len(sent) == 3:
            done.set()

    async with asyncio.timeout(10), Deliveries(pause_seconds=0.001) as deliveries:
        await deliveries.put("ag-1", refused)
        await deliveries.put("ag-1", partial(say, "its next word"))
        await deliveries.put("ag-2", partial(say, "another's"))
        await done.wait()
    assert sorted(sent) == ["another's", "its next word", "refused"]


@pytest.mark.parametrize(
    "error",
    [Unavailable("no server", code="temporal_unavailable"), said_no(RPCStatusCode.PERMISSION_DENIED)],
    ids=["outage", "no right to tell anybody"],
)
async def test_word_that_nobody_would_be_told_either_ends_the_whole_also_when_no_other_comes(error: Exception) -> None:
    async def never() -> None:
        raise error

    async def tell() -> None:
        async with Deliveries(at_once=1, most_kept=2, pause_seconds=0.001) as deliveries:
            await deliveries.put("ag-1", never)
            await asyncio.Event().wait()

    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(tell(), 10)


async def test_what_was_not_sent_when_it_is_cancelled_is_dropped() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def tell() -> None:
        async with Deliveries() as deliveries:
            await deliveries.put("ag-1", forever)
            await asyncio.Event().wait()

    telling = asyncio.create_task(tell())
    await asyncio.wait_for(begun.wait(), 10)
    telling.cancel()
    await asyncio.wait([telling])
    assert ended.is_set()
