"""One flow in waves, with harms at as many of its boundaries as can be reached.

A flow is done once undisturbed, which tells the boundaries that it passes. Then several people do it side by side, each
in a place of their own: the first to come to a boundary is held there, the others pass and are held further on. When
nobody else comes to stand anywhere, the harm is done, and all go on whose part still lives. Those who come to another
boundary are held and harmed there as well, a few times on their way, and every flow must end as it did undisturbed.
What was not reached, since who stood held a lock that others needed, is for the next wave.
"""

import asyncio
import contextlib
import re
import time
import traceback
from collections import defaultdict
from collections.abc import Collection, Sequence
from math import ceil

from tests.chaos.flows import FLOWS, PROJECTS, Flow, Told, leave
from tests.chaos.gate import Boundary, Held
from tests.chaos.rehearsal import HELD, Rehearsal
from tests.chaos.report import Report, Row
from tests.chaos.victims import Victim
from tests.fixtures.stack import PATIENCE, Person

# What goes on by itself, whatever users do.
_UPKEEP = re.compile(
    "reap|_measure|stay_present|_pressure|(GET capacity|POST check|GET agents) of the host|GET .* of the cluster"
)
_REACHED_SECONDS = 30
_QUIET_SECONDS = 1.5
# Shorter than the patience of anybody who waits for one who stands: the API's own for an answer is 5 s.
_HELD_SECONDS = 4.0
# On one way, where no agent dies of it: those are begun anew three times at most. What went wrong is laid to each.
_MOST_HARMS = 4
# Of the stack: who is harmed again and again on its way to be usable needs longer for it.
PATIENT = {"TIMINGS__READY_DEADLINE_SECONDS": "300"}
# What nobody came to in so many waves is passed by chance alone: told, and no more than one in ten.
_MOST_IN_VAIN = 3


class Series:
    """One flow and one victim."""

    def __init__(self, stack: Rehearsal, name: str, victim: Victim) -> None:
        self.stack, self.name, self.victim = stack, name, victim
        self.flow: Flow = FLOWS[name]
        self.undisturbed: Told = []

    async def boundaries(self) -> list[Boundary]:
        """Do it twice undisturbed, and say what it passes both times: something else may have been under way in one."""
        first = await self._passed()
        usual = self.undisturbed
        second = await self._passed()
        assert self.undisturbed == usual, f"{self.undisturbed} the second time, {usual} the first"
        return [each for each in first if each in second and not _UPKEEP.search(each.at)]

    async def upkeep(self) -> list[Boundary]:
        """What goes on by itself meanwhile."""
        return [each for each in await self._passed() if _UPKEEP.search(each.at)]

    async def harmed(self, boundaries: Sequence[Boundary], report: Report) -> None:
        """Harm the victim at each boundary once. Raises AssertionError with all that went wrong."""
        assert boundaries, "no part came to any boundary"
        rows: list[Row] = []
        missed: list[Row] = []
        for part in HELD:
            left, in_vain = {each for each in boundaries if each.part == part}, 0
            while left and in_vain < _MOST_IN_VAIN:
                found = await self._wave(left)
                in_vain = 0 if found else in_vain + 1
                left -= {row.boundary for row in found}
                rows += found
                report.add(*found)
            missed += [Row(self.name, each, self.victim.name, None, "") for each in sorted(left)]
        report.add(*missed)
        assert len(missed) <= len(boundaries) / 10, f"nobody came to {[str(row.boundary) for row in missed]}"
        wrong: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row.trouble:
                wrong[row.trouble].append(str(row.boundary))
        assert not wrong, "\n".join(f"{trouble}, at {', or '.join(where)}" for trouble, where in wrong.items())

    async def _passed(self) -> list[Boundary]:
        await self.stack.mended()
        (alone,) = await self.stack.guests(1, PROJECTS)
        self.stack.gate.forget()
        self.stack.gate.hold([])
        self.undisturbed = await self._do(alone)
        return list(dict.fromkeys(passage.boundary for passage in self.stack.gate.passed))

    async def _do(self, person: Person) -> Told:
        return await self.flow(person, person.user_id)

    async def _wave(self, wanted: Collection[Boundary]) -> list[Row]:
        """What came of those boundaries that were reached."""
        gate = self.stack.gate
        by_itself = all(_UPKEEP.search(each.at) for each in wanted)
        harms = 1 if by_itself or self.victim.has_agents else _MOST_HARMS
        # One more than would do: who stands may be in the way of others.
        needed = 1 if by_itself else min(len(wanted), self.stack.places, ceil(len(wanted) / harms) + 1)
        people = await self.stack.guests(needed, PROJECTS)
        gate.forget()
        gate.hold(wanted)
        doing: list[asyncio.Task[Told]] = []
        stood: list[tuple[Held, float]] = []
        try:
            if not by_itself:
                doing += self._begin(people, harms)
            for more in reversed(range(harms)):
                await self._nobody_else_comes(doing)
                await self.stack.there()
                if by_itself:
                    doing += self._begin(people, harms)
                stood += await self._harm_who_stands(further=more > 0)
                if gate.all_stand:
                    break
            troubles = await self._troubles(people, doing)
        finally:
            for each in gate.hold_no_more():
                each.let_on()
            for task in doing:
                task.cancel()
        assert stood or not troubles, f"undisturbed: {troubles}"
        return [self._row(each, harmed, troubles) for each, harmed in stood]

    def _begin(self, people: Sequence[Person], harms: int) -> list[asyncio.Task[Told]]:
        for person in people:
            person.patience = PATIENCE * harms
        return [asyncio.create_task(self._do(person)) for person in people]

    async def _harm_who_stands(self, *, further: bool) -> list[tuple[Held, float]]:
        """Each and when. `further`: whoever then comes to where nobody stood is held for the next harm."""
        gate = self.stack.gate
        held, left, harmed = list(gate.held), gate.wanted, time.monotonic()
        gate.hold(left if further else [])
        try:
            if held:
                await self.victim.harm(self.stack, held[0].boundary.part)
        finally:
            for each in held:
                each.let_on()
        return [(each, harmed) for each in held]

    async def _nobody_else_comes(self, doing: Sequence[asyncio.Task[Told]]) -> None:
        gate, late = self.stack.gate, time.monotonic() + _REACHED_SECONDS
        while not gate.all_stand and time.monotonic() < late and not (doing and all(task.done() for task in doing)):
            stand = [time.monotonic() - each.passage.moment for each in gate.held]
            if stand and (stand[-1] > _QUIET_SECONDS or stand[0] > _HELD_SECONDS):
                return
            await asyncio.sleep(0.05)

    async def _troubles(self, people: Sequence[Person], doing: Sequence[asyncio.Task[Told]]) -> dict[str, str]:
        """What went wrong with whom; with everybody, under no name."""
        troubles = {}
        for person, task in zip(people, doing, strict=True):
            try:
                told = await task
            except AssertionError as error:
                troubles[person.user_id] = _words(error)
                # Else those of the next wave wait for its place, and are told as wrong for that.
                with contextlib.suppress(AssertionError):
                    await leave(person)
                continue
            # Where agents died of it, what they come to is the same, and not the way there.
            if told != self.undisturbed and not (self.victim.has_agents and _ends(told) == _ends(self.undisturbed)):
                troubles[person.user_id] = self._otherwise(told)
        try:
            await self.stack.mended()
            await self.stack.sound()
        except AssertionError as error:
            troubles[""] = _words(error)
        if healed := self.stack.healed():
            troubles[""] = "; ".join(
                [*filter(None, [troubles.get("")]), *(f"the reaper cleared {each}" for each in healed)]
            )
        return troubles

    def _otherwise(self, told: Told) -> str:
        pairs = zip(told, self.undisturbed, strict=True)
        return " and ".join(f"{ours} instead of {usual}" for ours, usual in pairs if ours != usual)

    def _row(self, held: Held, harmed: float, troubles: dict[str, str]) -> Row:
        """Of one boundary. What cannot be laid to the one who stood there is laid to all."""
        whose = held.passage.whose
        later = [each.moment for each in self.stack.gate.passed if each.whose == whose and each.moment > harmed]
        seconds = min(later, default=time.monotonic()) - harmed
        mine = {name: said for name, said in troubles.items() if name in whose}
        return Row(self.name, held.boundary, self.victim.name, seconds, "; ".join((mine or troubles).values()))


def _words(error: AssertionError) -> str:
    """Never none: one without words is told by its place."""
    return str(error) or "".join(traceback.format_tb(error.__traceback__, limit=-1)).strip()


def _ends(told: Told) -> Told:
    """First and last of what was told of each agent."""
    return [[kinds[0], kinds[-1]] for kinds in told]
