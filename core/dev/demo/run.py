"""`make demo`: the stage, the story, and the addresses at the end."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from core.dev.demo.person import Person
from core.dev.demo.stage import Sign, Stage
from core.dev.demo.steps import StepFailed, Steps
from core.dev.demo.story import play

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STACK_SECONDS = 120
_INTERRUPTED = 130


@dataclass(frozen=True)
class DemoOptions:
    """`leave` after the story, or stay until a signal. `sign(secret, user, admin)` makes a token."""

    folder: Path
    sign: Sign
    leave: bool = False
    search_attributes: Mapping[str, str] = field(default_factory=dict)
    any_ports: bool = False


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Returns 0 when all of it happened, 1 when a step failed, 130 when it was interrupted. Nothing runs afterwards."""
    asked, settled = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    steps = Steps(console)
    demo = asyncio.create_task(_demo(options, steps, asked, settled))

    def ask() -> None:
        asked.set()
        if not settled.is_set():
            steps.say("interrupted; stopping")
            demo.cancel()
        for number in _STOPS:
            # A second signal ends everything at once.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _STOPS:
        loop.add_signal_handler(number, ask)
    try:
        return await demo
    except asyncio.CancelledError:
        return _INTERRUPTED


async def _demo(options: DemoOptions, steps: Steps, asked: asyncio.Event, settled: asyncio.Event) -> int:
    """`settled` is set when there is nothing left to interrupt: it stops, or only waits to be `asked` to."""
    async with AsyncExitStack() as kept:
        try:
            async with steps.step("The local stack, a shop and a scripted model", seconds=_STACK_SECONDS) as step:
                stage = await kept.enter_async_context(
                    Stage.open(
                        options.folder,
                        options.sign,
                        steps.note,
                        options.search_attributes,
                        any_ports=options.any_ports,
                    )
                )
                step.outcome = str(stage.stack.addresses["api"])
            second = await play(stage, steps)
            if options.leave:
                steps.say(f"\nWhat the agent made is in {stage.folder}")
            else:
                await _tell(stage, steps, second)
                steps.say("Ctrl-C ends all of it.")
        except StepFailed as error:
            steps.failed(error)
            return 1
        finally:
            settled.set()
        if not options.leave:
            await asked.wait()
        steps.say("stopping")
    return 0


async def _tell(stage: Stage, steps: Steps, person: Person) -> None:
    """Where to look at it. The token stands behind a `#`, so that it is sent to no server and stands in no log."""
    at = stage.stack.addresses
    steps.say()
    for what, url in (
        (f"Dashboard, as {person.user}", f"{at['dashboard']}#token={person.token}"),
        ("Dashboard, as administrator", f"{at['dashboard']}#token={await stage.administrator()}"),
        ("Temporal", at["temporalUi"]),
        ("API", f"{at['api']}/docs"),
        ("The shop", f"{stage.shop.url}/"),
        ("What the agent made", stage.folder / "order.png"),
    ):
        steps.say(f"{what:<28} {url}")
    steps.say()
