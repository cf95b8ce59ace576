"""`python -m agent_image.agent`: one agent, told by its environment, until it is told to go."""

import asyncio
import os
import sys

from agent_image.agent import config, supervisor
from agent_image.agent.journal import log


async def _run() -> int:
    try:
        settings = config.read(os.environ)
        log.bind(agent_id=settings.agent_id, attempt=settings.attempt)
        agent = supervisor.Supervisor(settings)
    except config.BadEnvironment as error:
        sys.stderr.write(f"agent: {error}\n")
        supervisor.leave_word(None, supervisor.CANNOT_START, str(error))
        return supervisor.CANNOT_START
    return await agent.run()


def main() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    code = loop.run_until_complete(_run())
    sys.stdout.flush()
    # Not sys.exit: a name lookup or an import that still hangs in a thread must not keep an agent that has ended.
    os._exit(code)


if __name__ == "__main__":
    main()
