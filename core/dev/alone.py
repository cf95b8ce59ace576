"""Runs one part of the stack by itself, in the foreground: for a container, whose owner starts it again."""

import asyncio
import signal

from core import launch
from core.dev.supervise import Part


async def run_alone(part: Part) -> int:
    """Run `part`, its output ours, until it ends or we get SIGTERM or SIGINT, which end it in order.

    Returns 0 after an orderly stop, else 1 whatever the part's own end was. Raises `CannotStart`.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    if part.prepare is not None:
        await part.prepare()
    process = await asyncio.create_subprocess_exec(
        *launch.command(part.argv, account=part.account, reach=part.reach),
        env=dict(part.env),
        cwd=part.cwd,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = asyncio.create_task(process.wait())
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([ended, waiting], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return 1
        process.send_signal(part.stop_signal)
        async with asyncio.timeout(part.stop_seconds):
            return 0 if await process.wait() == 0 else 1
    except TimeoutError:
        return 1
    finally:
        waiting.cancel()
        if process.returncode is None:
            process.kill()
        await ended
