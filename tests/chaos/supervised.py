"""A local stack whose parts this very process supervises, and may run otherwise than `berth up` does."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from core.dev.stack import Stack, StackOptions
from core.dev.supervise import Part
from tests.fixtures.stack import environment_of
from workflows.options import SEARCH_ATTRIBUTES


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, runtime: str, settings: Mapping[str, str], more: Mapping[str, str], alter: Callable[[Part], Part]
) -> AsyncIterator[tuple[Stack, dict[str, str]]]:
    """The stack, and the environment in which commands find it.

    `settings` are BERTH_ variables without the prefix, `more` is for the parts alone; each part runs as `alter` has it.
    """
    options = StackOptions(
        folder,
        runtime=runtime,
        environment={f"BERTH_{name}": value for name, value in settings.items()} | dict(more),
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
    ).on_any_ports()
    stack = Stack(options, lambda _: None)
    usual = stack._own_parts
    stack._own_parts = lambda env: [alter(part) for part in usual(env)]
    try:
        await stack.start()
        yield stack, environment_of(folder, settings)
    finally:
        await stack.stop()
