"""Finds runtimes by entry point, so that `core` knows none of those that live above it."""

from importlib.metadata import entry_points
from typing import cast

from core.errors import RuntimePermanent
from core.runtime.base import AgentRuntime
from core.settings import Settings

GROUP = "berth.runtimes"


def runtime_names() -> list[str]:
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def open_runtime(name: str, settings: Settings) -> AgentRuntime:
    """Connect to the runtime of that name; call in a running event loop. Raises `RuntimePermanent` for unknown names.

    An entry of the group is a callable `(name, settings) -> AgentRuntime` that does no IO yet.
    """
    for entry in entry_points(group=GROUP, name=name):
        return cast(AgentRuntime, entry.load()(name, settings))
    raise RuntimePermanent(f"there is no runtime {name!r}; known are: {', '.join(runtime_names()) or 'none'}")
