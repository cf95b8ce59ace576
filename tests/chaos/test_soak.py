"""Users who come and go while parts are killed, cut off and frozen at random: `make soak MINUTES=30 SEED=7`."""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from tests.chaos import flows
from tests.chaos.rehearsal import HELD, Rehearsal, rehearsal, write_places
from tests.chaos.victims import VICTIMS
from tests.fixtures.stack import Person

MINUTES = float(os.environ.get("SOAK_MINUTES", "1"))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(1_000_000))
PEOPLE = 6
# Fewer places than people, so that some wait.
CAPACITY = 4
FLOWS = [
    flows.one_life,
    flows.beginning_anew,
    flows.warned_and_kept,
    flows.one_after_the_other,
    flows.at_its_time,
    flows.failing,
    flows.left_alone,
]
_MOST_FLOWS = 400
_MENDED_SECONDS = 60
# Whoever is struck by one harm after the other waits longer than by one alone.
_PATIENCE_SECONDS = 180


class Soak:
    """What happened, in order, so that a failure can be read back."""

    def __init__(self, stack: Rehearsal, minutes: float, seed: int) -> None:
        self.stack = stack
        self._chance = random.Random(seed)
        self._until = asyncio.get_running_loop().time() + minutes * 60
        self.done = 0
        self.harms: list[str] = []

    def over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._until

    async def live(self, person: Person, seed: int) -> None:
        """One person's flows, one after the other."""
        chance = random.Random(seed)
        for number in range(_MOST_FLOWS):
            if self.over():
                return
            flow = chance.choice(FLOWS)
            try:
                await flow(person, str(number))
            except AssertionError as error:
                raise AssertionError(f"{person.user_id}, {flow.__name__} number {number}: {error}") from error
            self.done += 1

    async def harm(self) -> None:
        """One harm of the kill suite after the other, each when the last one is mended."""
        while not self.over():
            await asyncio.sleep(self._chance.uniform(1, 8))
            victim, itself = self._chance.choice(list(VICTIMS)), self._chance.choice(HELD)
            self.harms.append(f"{victim} ({itself})")
            await VICTIMS[victim].harm(self.stack, itself)
            async with asyncio.timeout(_MENDED_SECONDS):
                await self.stack.mended()


@pytest.mark.chaos
@pytest.mark.timeout(MINUTES * 60 + 600)
async def test_random_harm_leaves_nothing_lost_doubled_or_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\nsoak of {MINUTES:g} min, SEED={SEED}\n")
    write_places(tmp_path / "berth.yaml", "memory", 0, {}, apart=True)
    settings = {"CONFIG": str(tmp_path / "berth.yaml"), "POOL__CAPACITY": str(CAPACITY)}
    async with rehearsal(tmp_path / "data", **settings) as stack:
        projects = [f"{number}-1" for number in range(_MOST_FLOWS)]
        people = [await stack.user(f"user-{number}", *projects, tier="premium") for number in range(PEOPLE)]
        for person in people:
            person.patience = _PATIENCE_SECONDS
        soak = Soak(stack, MINUTES, SEED)
        try:
            async with asyncio.TaskGroup() as group:
                for number, person in enumerate(people):
                    group.create_task(soak.live(person, SEED + number + 1))
                group.create_task(soak.harm())
        except BaseExceptionGroup as several:
            raise AssertionError(f"SEED={SEED}, after {soak.harms[-10:]}: {several.exceptions}") from several
        await stack.sound()
        for person in people:
            agents = (await person.ask("GET", "/api/agents?limit=200")).json()["items"]
            assert {agent["state"] for agent in agents} <= {"terminated", "failed"}, agents
    with capsys.disabled():
        sys.stdout.write(f"{soak.done} flows, {len(soak.harms)} harms, nothing lost, doubled or held\n")
