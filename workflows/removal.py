"""The removal of an attempt: all that was made for it, until the runtime says gone or an operator gives up on it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Life, Usage
    from workflows.options import FORCE_IS_HEARD, LAST_CHANCE_IS_GIVEN, removal_options

UNSEEN = "an operator gave up on its runtime, so nobody has seen it gone"
# A runtime that an operator has given up on may answer after all.
_LAST_CHANCE = timedelta(seconds=5)


class Removal:
    """One at a time, tried until it succeeds. `unseen`: the last one ended because an operator gave up on it."""

    def __init__(self, *, given_up: bool = False) -> None:
        self.unseen = False
        self._given_up = given_up
        self._leaving: workflow.ActivityHandle[Usage] | None = None
        self._chance: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Give the runtime a last chance, now and from now on: an operator's word that nothing runs there any more."""
        self._given_up = True
        if self._leaving is None or self._leaving.done():
            return
        if workflow.patched(LAST_CHANCE_IS_GIVEN):
            self._chance = asyncio.create_task(_last_chance(self._leaving))
        else:
            self._leaving.cancel()

    async def carry_out(
        self, life: Life, reason: str, within_seconds: float = 0, forced: Callable[[], bool] = lambda: False
    ) -> Usage:
        """Give the agent its time to save, then have all of it removed; `forced` cuts that time short."""
        try:
            usage = await self._once(life, reason, within_seconds, forced)
        except ActivityError:
            if not self._given_up:
                raise
            self.unseen = True
            return Usage()
        finally:
            self._leaving = None
        self.unseen = False
        return usage

    async def _once(self, life: Life, reason: str, within_seconds: float, forced: Callable[[], bool]) -> Usage:
        leaving = self._leaving = _start(life, reason, within_seconds)
        if within_seconds > 0:
            await workflow.wait_condition(lambda: leaving.done() or forced())
            if not leaving.done() and workflow.patched(FORCE_IS_HEARD):
                # Not waited for: it hears of this with its next beat, and finds by then that the agent is gone.
                leaving.cancel()
                leaving = self._leaving = _start(life, reason, 0)
        if self._given_up:
            await _last_chance(leaving)
        return await leaving


async def _last_chance(leaving: workflow.ActivityHandle[Usage]) -> None:
    with suppress(TimeoutError):
        await workflow.wait_condition(leaving.done, timeout=_LAST_CHANCE, timeout_summary="last chance")
    if not leaving.done():
        leaving.cancel()


def _start(life: Life, reason: str, within_seconds: float) -> workflow.ActivityHandle[Usage]:
    return workflow.start_activity(
        contracts.shut_down_agent,
        contracts.Shutdown(life=life, reason=reason, within_seconds=within_seconds),
        summary=reason,
        **removal_options(life.pool, within_seconds),
    )
