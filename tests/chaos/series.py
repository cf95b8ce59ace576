"""One flow again and again, each time with a harm at another of its boundaries.

A flow is done once undisturbed, which tells the boundaries that it passes. Then it is done again for each of them: the
part that comes there is held, the harm is done while it stands, and it goes on, if it still lives.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

from tests.chaos.flows import FLOWS, PROJECTS, Flow, Told
from tests.chaos.gate import Boundary
from tests.chaos.rehearsal import Rehearsal
from tests.chaos.report import Report, Row
from tests.chaos.victims import FATAL_TO_AGENTS, VICTIMS, Harm
from tests.fixtures.stack import Person

# What goes on by itself, whatever users do.
_UPKEEP = re.compile(
    "reap|_measure|stay_present|_pressure|(GET capacity|POST check|GET agents) of the host|GET .* of the cluster"
)
_REACHED_SECONDS = 30
# Of the longest flow.
_MOST_CASES = 90


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
        return [each for each in await self._passed() if not _UPKEEP.search(each.at)]

    async def upkeep(self) -> list[Boundary]:
        """The same of what goes on by itself meanwhile."""
        return [each for each in await self._passed() if _UPKEEP.search(each.at)]

    async def _passed(self) -> list[Boundary]:
        await self.stack.mended()
        self.stack.gate.passed.clear()
        began = time.monotonic()
        self.undisturbed = await self.do()
        self.seconds = time.monotonic() - began
        return list(dict.fromkeys(self.stack.gate.passed))

    async def harmed_at(self, boundary: Boundary, harm: Harm, fatal: bool) -> tuple[float, str]:
        """How much longer it took with the harm, and what went wrong (empty: nothing)."""
        began = time.monotonic()
        coming = self.stack.gate.arm(boundary)
        if _UPKEEP.search(boundary.at):  # comes by itself, and may take longer than a flow
            await asyncio.wait([coming], timeout=_REACHED_SECONDS)
        doing = asyncio.create_task(self.do())
        try:
            first: list[asyncio.Future[Any]] = [coming, doing]
            await asyncio.wait(first, timeout=_REACHED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return 0, "was not reached"
            held = coming.result()
            await harm(self.stack, held.boundary.part)
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

    async def harmed(self, boundaries: Sequence[Boundary], victim: str, report: Report) -> None:
        """Do it once for each boundary. Raises AssertionError with all that went wrong."""
        wrong = []
        for boundary in boundaries:
            seconds, trouble = await self.harmed_at(boundary, VICTIMS[victim], victim in FATAL_TO_AGENTS)
            report.add(Row(self.name, boundary, victim, seconds, trouble))
            if trouble:
                wrong.append(f"{boundary}, {victim}: {trouble}")
                await self.stack.mended()
        assert not wrong, "\n".join(wrong)
