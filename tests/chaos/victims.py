"""What is done to Berth while one part of it stands at a boundary, or at any time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.rehearsal import HELD, Rehearsal

# Takes the stack, and the name of the part that is meant by `itself`: the one that is held.
Harm = Callable[[Rehearsal, str], Awaitable[None]]


@dataclass(frozen=True)
class Victim:
    """`has_agents`: agents die with it, and are restarted."""

    name: str
    harm: Harm
    has_agents: bool = False


def _killed(*parts: str) -> Harm:
    """`kill -9` of parts."""

    async def harm(stack: Rehearsal, itself: str) -> None:
        (other,) = set(HELD) - {itself}
        meant = {"itself": itself, "the other": other}
        for part in parts:
            stack.kill(meant.get(part, part))

    return harm


def _cut_off(server: str) -> Harm:
    async def harm(stack: Rehearsal, itself: str) -> None:
        await stack.cut(server)

    return harm


def _half_open(server: str) -> Harm:
    async def harm(stack: Rehearsal, itself: str) -> None:
        stack.half_open(server)

    return harm


def _frozen(part: str) -> Harm:
    async def harm(stack: Rehearsal, itself: str) -> None:
        stack.freeze(part)

    return harm


async def _every_agent(stack: Rehearsal, itself: str) -> None:
    await stack.kill_agents()


def _named(*victims: Victim) -> dict[str, Victim]:
    return {victim.name: victim for victim in victims}


_ANYWHERE = _named(
    Victim("itself", _killed("itself")),
    Victim("the other", _killed("the other")),
    Victim("temporal", _killed("temporal")),
    Victim("postgres", _killed("postgres")),
    Victim("itself and the other", _killed("itself", "the other")),
    Victim("itself and temporal", _killed("itself", "temporal")),
    Victim("itself and postgres", _killed("itself", "postgres")),
    Victim("temporal and postgres", _killed("temporal", "postgres")),
    Victim("line to postgres", _cut_off("postgres")),
    Victim("line to temporal", _cut_off("temporal")),
    Victim("frozen postgres", _frozen("postgres")),
    Victim("frozen temporal", _frozen("temporal")),
    Victim("half-open line to postgres", _half_open("postgres")),
    Victim("half-open line to temporal", _half_open("temporal")),
)

# Where agents live in a host on this machine.
VICTIMS = _ANYWHERE | _named(
    Victim("host", _killed("host"), has_agents=True),
    Victim("itself and host", _killed("itself", "host"), has_agents=True),
)

# Where agents are pods, which a watcher tells of.
VICTIMS_OF_PODS = _ANYWHERE | _named(
    Victim("watcher", _killed("watch")),
    Victim("itself and watcher", _killed("itself", "watch")),
    Victim("every agent", _every_agent, has_agents=True),
)
