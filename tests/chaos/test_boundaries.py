"""At every boundary of every flow a victim is harmed, and the flow ends as if nothing had happened.

A flow is done once undisturbed, which tells the boundaries that it passes. Then it is done again for each of them: the
part that comes there is held, the harm is done while it stands, and it goes on, if it still lives.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.flows import FLOWS, PROJECTS, Flow, Told
from tests.chaos.gate import Boundary
from tests.chaos.rehearsal import Rehearsal, rehearsal
from tests.chaos.report import Report, Row
from tests.chaos.victims import FATAL_TO_AGENTS, VICTIMS, Harm
from tests.fixtures.stack import Person

# What goes on by itself, whatever users do.
_UPKEEP = re.compile(
    r"reap|_measure|stay_present|_pressure|(GET capacity|POST check|GET agents) of the host|grant_tick"
)
_REACHED_SECONDS = 30
# Of the longest flow.
_MOST_CASES = 70
_QUICK = re.compile(r"after (register|the commit .*register|PUT|create_agent|the write .*mark_running|DELETE|finish)")


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsal]:
    async with rehearsal(tmp_path_factory.mktemp("boundaries") / "data") as one:
        yield one


class Series:
    """One flow, again and again, by a user whose projects are used once each."""

    def __init__(self, stack: Rehearsal, name: str, ann: Person) -> None:
        self.stack, self.name, self.ann = stack, name, ann
        self.flow: Flow = FLOWS[name]
        self._done = 0
        self.undisturbed: Told = []
        self.seconds = 0.0

    @classmethod
    async def begin(cls, stack: Rehearsal, name: str, victim: str) -> "Series":
        user = f"{name} {victim}".replace(" ", "-")
        projects = [f"{number}-{each}" for number in range(_MOST_CASES) for each in range(1, PROJECTS + 1)]
        return cls(stack, name, await stack.user(user, *projects, tier="premium"))

    async def do(self) -> Told:
        self._done += 1
        return await self.flow(self.ann, str(self._done - 1))

    async def boundaries(self) -> list[Boundary]:
        """Do it undisturbed, and say what it passes."""
        await self.stack.mended()
        self.stack.gate.passed.clear()
        began = time.monotonic()
        self.undisturbed = await self.do()
        self.seconds = time.monotonic() - began
        return [each for each in dict.fromkeys(self.stack.gate.passed) if not _UPKEEP.search(each.at)]

    async def harmed_at(self, boundary: Boundary, harm: Harm, fatal: bool) -> tuple[float, str]:
        """How much longer it took with the harm, and what went wrong (empty: nothing)."""
        began = time.monotonic()
        coming = self.stack.gate.arm(boundary)
        doing = asyncio.create_task(self.do())
        try:
            first: list[asyncio.Future[Any]] = [coming, doing]
            await asyncio.wait(first, timeout=_REACHED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return 0, "was not reached"
            held = coming.result()
            await harm(self.stack, held)
            held.let_on()
            told = await doing
            seconds = time.monotonic() - began - self.seconds
            await self.stack.mended()
            await self.stack.sound()
        except AssertionError as error:
            return time.monotonic() - began - self.seconds, str(error)
        finally:
            coming.cancel()
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        if not fatal and told != self.undisturbed:
            return seconds, f"{told} instead of {self.undisturbed}"
        return seconds, ""


async def _all(series: Series, boundaries: Sequence[Boundary], victim: str, report: Report) -> None:
    wrong = []
    for boundary in boundaries:
        seconds, trouble = await series.harmed_at(boundary, VICTIMS[victim], victim in FATAL_TO_AGENTS)
        report.add(Row(series.name, boundary, victim, seconds, trouble))
        if trouble:
            wrong.append(f"{boundary}, {victim}: {trouble}")
            await series.stack.mended()
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(300)
async def test_a_life_ends_the_same_when_whoever_carries_it_is_killed_between_its_steps(
    stack: Rehearsal, chaos_report: Report
) -> None:
    series = await Series.begin(stack, "one_life", "quick")
    chosen = [each for each in await series.boundaries() if _QUICK.match(each.at)]
    assert len(chosen) >= 7, chosen
    await _all(series, chosen, "itself", chaos_report)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_flow_ends_the_same_whatever_is_harmed_at_any_boundary(
    stack: Rehearsal, chaos_report: Report, flow: str, victim: str
) -> None:
    series = await Series.begin(stack, flow, victim)
    await _all(series, await series.boundaries(), victim, chaos_report)
