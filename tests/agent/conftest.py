"""A shop, Berth's other end, and one agent that the tests of this folder share where they leave it as it was."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.dev.demo.shop import Shop
from tests.agent import running
from tests.agent.backend import Backend, serve
from tests.agent.running import Agent


@pytest.fixture(scope="session")
def shop() -> Iterator[Shop]:
    with Shop() as running_shop:
        yield running_shop


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with serve(running.TOKEN) as fresh:
        yield fresh


@pytest.fixture(scope="session")
async def agent(shop: Shop) -> AsyncIterator[Agent]:
    """Shared: allowed to visit the demo shop and nothing else of this machine."""
    async with serve(running.TOKEN) as backend:
        allowed = {"allowed_hosts": [f"127.0.0.1:{shop.port}"]}
        async with running.started(backend, browser=allowed) as shared:
            yield shared
