"""What is done to Berth while one part of it stands at a boundary, or at any time."""

from collections.abc import Awaitable, Callable

from tests.chaos.rehearsal import HELD, Rehearsal

# Takes the stack, and the name of the part that is meant by `itself`: the one that is held.
Harm = Callable[[Rehearsal, str], Awaitable[None]]


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


VICTIMS: dict[str, Harm] = {
    "itself": _killed("itself"),
    "the other": _killed("the other"),
    "temporal": _killed("temporal"),
    "postgres": _killed("postgres"),
    "itself and the other": _killed("itself", "the other"),
    "itself and temporal": _killed("itself", "temporal"),
    "itself and postgres": _killed("itself", "postgres"),
    "temporal and postgres": _killed("temporal", "postgres"),
    "host": _killed("host"),
    "itself and host": _killed("itself", "host"),
    "line to postgres": _cut_off("postgres"),
    "line to temporal": _cut_off("temporal"),
    "frozen postgres": _frozen("postgres"),
    "frozen temporal": _frozen("temporal"),
    "half-open line to postgres": _half_open("postgres"),
    "half-open line to temporal": _half_open("temporal"),
}

# With the host its agents die, and are restarted.
FATAL_TO_AGENTS = frozenset(name for name in VICTIMS if "host" in name)
