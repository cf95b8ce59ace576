"""Where the demo plays: a local stack of its own with room for one agent, a shop, and a model that knows its lines."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

from core.db.engine import Db
from core.db.repositories import projects, users
from core.dev.demo.model import ScriptedModel, order_tea
from core.dev.demo.person import Person
from core.dev.demo.shop import Shop
from core.dev.folder import DataFolder
from core.dev.stack import Stack, StackOptions

NAME, EMAIL, TEA = "First User", "first@example.test", "White tea"
Sign = Callable[[str, str, bool], str]
_KEPT_SETTINGS = "BERTH_HOST__"  # what this machine needs to run an agent at all


@dataclass(frozen=True)
class Stage:
    """Everything that stands before the story begins."""

    folder: Path
    stack: Stack
    shop: Shop
    http: httpx2.AsyncClient
    sign: Sign
    secret: str

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        sign: Sign,
        announce: Callable[[str], None],
        search_attributes: Mapping[str, str],
        *,
        any_ports: bool = False,
    ) -> AsyncIterator[Self]:
        """Start it all; everything is stopped at the end. `sign(secret, user, admin)` makes a token.

        Raises `CannotStart`.
        """
        secret = await asyncio.to_thread(_empty, folder)
        _forget_settings()
        model = ScriptedModel({"": []})
        with Shop() as shop, model:
            model.scripts[""] = order_tea(shop.url, NAME, EMAIL, TEA)
            config = folder / "berth.yaml"
            config.write_text(json.dumps(_settings(shop, model), indent=2))
            options = StackOptions(
                folder, search_attributes=search_attributes, environment={"BERTH_CONFIG": str(config)}
            )
            stack = Stack(options.on_any_ports() if any_ports else options, announce)
            try:
                await stack.start()
                limits = httpx2.Timeout(30, connect=5)
                async with httpx2.AsyncClient(
                    base_url=str(stack.addresses["api"]), timeout=limits, trust_env=False
                ) as http:
                    yield cls(folder, stack, shop, http, sign, secret)
            finally:
                await stack.stop()

    async def make(self, user: str, project: str) -> Person:
        """A user with a project, known to Berth."""
        async with self._database() as db, db.transaction() as session:
            await users.put(session, user)
            await projects.add(session, project, [user])
        return Person(user, project, self.sign(self.secret, user, False), self.http)

    async def administrator(self) -> str:
        """A token for one."""
        async with self._database() as db, db.transaction() as session:
            await users.put(session, "administrator")
        return self.sign(self.secret, "administrator", True)

    def _database(self) -> AbstractAsyncContextManager[Db]:
        return Db.open(str(self.stack.addresses["database"]), application="demo", pool_size=1)

    def logs(self, *parts: str, agent_id: str = "") -> list[Path]:
        """The logs of parts of the stack, and of an agent."""
        found = [self.folder / "logs" / f"{part}.log" for part in parts]
        return [*found, self.folder / "host" / "logs" / f"{agent_id}.log"] if agent_id else found


def _settings(shop: Shop, model: ScriptedModel) -> dict[str, Any]:
    """A configuration file for `berth` (JSON is YAML)."""
    browser = {"allowed_hosts": [f"{shop.host}:{shop.port}"]}
    return {
        "pool": {"capacity": 1},
        "templates": {"default": {"browser": browser}},
        "llm": {"base_url": model.base_url, "model": "scripted"},
        # A machine that is busy or full with other things shall not keep the one agent waiting.
        "thresholds": {"cpu_percent": 100, "disk_percent": 100},
    }


def _empty(folder: Path) -> str:
    """Forget earlier demos; what the host noted stays, so that it can clean up after one that was killed.

    Returns the secret that tokens are signed with. Raises `CannotStart` when a demo is running in the folder.
    """
    held = DataFolder.open(folder)
    try:
        held.end_leftovers()
        for name in ("postgres", "temporal", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return held.secret("auth")
    finally:
        held.close()


def _forget_settings() -> None:
    """The demo is the same on every machine, whatever is set for a real Berth on it."""
    for name in [name for name in os.environ if name.startswith("BERTH_") and not name.startswith(_KEPT_SETTINGS)]:
        del os.environ[name]
