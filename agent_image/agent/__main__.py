"""`python -m agent_image.agent`: one agent, told by its environment, until it is told to go."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    # In a container this is process 1, for which the kernel drops every signal that has no handler: without this one,
    # an agent told to go while it is still being loaded would not hear it. The supervisor puts its own in the place.
    signal.signal(signal.SIGTERM, _leave)
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    code = loop.run_until_complete(_run())
    sys.stdout.flush()
    # Not sys.exit: a name lookup or an import that still hangs in a thread must not keep an agent that has ended.
    os._exit(code)


async def _run() -> int:
    from agent_image.agent import config, supervisor
    from agent_image.agent.journal import log
    from core.domain.wire import AgentExit

    try:
        settings = config.read(os.environ)
        log.bind(agent_id=settings.agent_id, attempt=settings.attempt)
        agent = supervisor.Supervisor(settings)
    except config.BadEnvironment as error:
        sys.stderr.write(f"agent: {error}\n")
        supervisor.leave_word(None, AgentExit.CANNOT_START, str(error))
        return AgentExit.CANNOT_START
    return await agent.run()


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
