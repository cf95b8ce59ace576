"""Where a part of Berth can be held: before and after each activity, each write, each call of Temporal or a runtime.

Only a part that is run by `tests.chaos.part` has these; the product knows nothing of them. Whatever comes to a boundary
names it to the harness and goes no further until it is let on. The rest of the part goes on, and may be held elsewhere.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only
from temporalio import activity, client, worker
from temporalio.client import Client

from core.db.engine import Db
from core.runtime.host.client import HostRuntime
from k8s.client import Cluster, Json

GATE = "CHAOS_GATE"
_ROOT = Path(__file__).parents[2]
_OURS = tuple(str(_ROOT / folder) for folder in ("activities", "api", "temporal", "k8s"))
_READS = ("SELECT", "SHOW", "BEGIN", "COMMIT", "ROLLBACK")
_AGENT_ID = re.compile(r"ag-[0-9a-f]{32}[/-]\d+")
_NAMESPACE = re.compile(r"/api(s/[a-z0-9./]+)?/v1/(namespaces/[^/]+/)?")
# Each at a boundary of its own. They are all begun anew at once, and of more on two cores most steps come too late.
HELD_AT_ONCE = 6
_Result = TypeVar("_Result")
# Who is at the database just now, so that a statement which commits by itself has a name.
_writer: ContextVar[str | None] = ContextVar("writer", default=None)
# The request that the API answers just now.
_request: ContextVar[str] = ContextVar("request", default="")


class Gatekeeper:
    """The part's end of the lines to the harness, one for each that comes to a boundary. Who hears nothing goes on."""

    def __init__(self, part: str, place: str) -> None:
        self._part, self._place = part, place

    async def pass_by(self, where: str) -> None:
        """Return when the harness says so, or is gone."""
        whose = activity.info().workflow_id if activity.in_activity() else _request.get()
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._place)
            with contextlib.closing(writer):
                writer.write(json.dumps({"part": self._part, "at": where, "whose": whose}).encode() + b"\n")
                said = asyncio.ensure_future(reader.read(1))
                while not (await asyncio.wait({said}, timeout=1))[0]:
                    if activity.in_activity():  # only the harness may say that it is dead
                        activity.heartbeat()

    async def around(self, what: str, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Stand still before and after a call that succeeds."""
        await self.pass_by(f"before {what}")
        result = await call()
        await self.pass_by(f"after {what}")
        return result


def install(part: str) -> None:
    """Put every boundary into this process. Call before anything of Berth runs."""
    keeper = Gatekeeper(part, os.environ[GATE])
    _around_writes(keeper)
    _around_runtimes(keeper)
    _around_clusters(keeper)
    _around_temporal(keeper)
    # Neither loads what is the other's: parts are begun anew hundreds of times.
    if part == "api":
        _note_requests()
    else:
        _make_room()


def _make_room() -> None:
    from temporal import worker as working

    # Whoever is held has one of a worker's few steps all the while, and others need theirs to come to their boundary.
    working._MOST_STEPS += HELD_AT_ONCE


def _note_requests() -> None:
    from fastapi import FastAPI

    answer = FastAPI.__call__

    async def noted(self: FastAPI, scope: Any, receive: Any, send: Any) -> None:
        _request.set(f"{scope.get('method', scope['type'])} {scope.get('path', '')}")
        await answer(self, scope, receive, send)

    FastAPI.__call__ = noted  # type: ignore[method-assign]


# ---- the database ---------------------------------------------------------------------------------------------------


def _around_writes(keeper: Gatekeeper) -> None:
    transaction, single = Db.transaction, Db.single

    @contextlib.asynccontextmanager
    async def held_transaction(self: Db) -> AsyncIterator[AsyncSession]:
        who, wrote = _caller(), False

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            nonlocal wrote
            wrote = wrote or not statement.lstrip().upper().startswith(_READS)

        async with transaction(self) as session:
            connection = (await session.connection()).sync_connection
            assert connection is not None
            event.listen(connection, "before_cursor_execute", note)
            yield session
            if wrote:
                await keeper.pass_by(f"before the commit of {who}")
        if wrote:
            await keeper.pass_by(f"after the commit of {who}")

    @contextlib.asynccontextmanager
    async def held_single(self: Db) -> AsyncIterator[AsyncSession]:
        _listen_to_single(self, keeper)
        token = _writer.set(_caller())
        try:
            async with single(self) as session:
                yield session
        finally:
            with contextlib.suppress(ValueError):  # closed from another task, as generators of requests may be
                _writer.reset(token)

    Db.transaction, Db.single = held_transaction, held_single  # type: ignore[method-assign]


def _listen_to_single(db: Db, keeper: Gatekeeper) -> None:
    engine = db.engine.sync_engine
    if getattr(engine, "_boundaries", False):
        return
    engine._boundaries = True  # type: ignore[attr-defined]

    def told(connection: Any, statement: str) -> str | None:
        alone = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        return _writer.get() if alone and not statement.lstrip().upper().startswith(_READS) else None

    @event.listens_for(engine, "before_cursor_execute")
    def before(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if (who := told(connection, statement)) is not None:
            await_only(keeper.pass_by(f"before the write of {who}"))

    @event.listens_for(engine, "after_cursor_execute")
    def after(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if (who := told(connection, statement)) is not None:
            await_only(keeper.pass_by(f"after the write of {who}"))


def _caller() -> str:
    """The nearest function of ours above the database's own, and the activity that it is of."""
    frame, name = sys._getframe(1), "nobody"
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        if code.co_filename.startswith(_OURS):
            name = f"{Path(code.co_filename).stem}.{code.co_name}"
            break
    return f"{name} for {activity.info().activity_type}" if activity.in_activity() else name


# ---- runtimes --------------------------------------------------------------------------------------------------------


def _around_runtimes(keeper: Gatekeeper) -> None:
    call = HostRuntime._call

    async def held_call(self: HostRuntime, method: str, path: str, **options: Any) -> bytes:
        what = f"{method} {_AGENT_ID.sub('{agent}', path)} of the host"
        return await keeper.around(what, lambda: call(self, method, path, **options))

    HostRuntime._call = held_call  # type: ignore[method-assign]


def _around_clusters(keeper: Gatekeeper) -> None:
    call = Cluster.call

    async def held_call(self: Cluster, method: str, path: str, **options: Any) -> Json:
        what = f"{method} {_AGENT_ID.sub('{agent}', _NAMESPACE.sub('', path))} of the cluster"
        return await keeper.around(what, lambda: call(self, method, path, **options))

    Cluster.call = held_call  # type: ignore[method-assign]


# ---- Temporal --------------------------------------------------------------------------------------------------------


def _around_temporal(keeper: Gatekeeper) -> None:
    connect = Client.connect

    async def held_connect(*args: Any, **options: Any) -> Client:
        options["interceptors"] = [*options.get("interceptors", ()), _Interceptor(keeper)]
        return await connect(*args, **options)

    Client.connect = held_connect  # type: ignore[method-assign]


class _Interceptor(client.Interceptor, worker.Interceptor):
    def __init__(self, keeper: Gatekeeper) -> None:
        self._keeper = keeper

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        return _Calls(next, self._keeper)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:
        return _Activities(next, self._keeper)


class _Activities(worker.ActivityInboundInterceptor):
    def __init__(self, next: worker.ActivityInboundInterceptor, keeper: Gatekeeper) -> None:
        super().__init__(next)
        self._keeper = keeper

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        onward = super().execute_activity
        return await self._keeper.around(activity.info().activity_type, lambda: onward(input))


class _Calls(client.OutboundInterceptor):
    def __init__(self, next: client.OutboundInterceptor, keeper: Gatekeeper) -> None:
        super().__init__(next)
        self._keeper = keeper

    async def start_workflow(self, input: client.StartWorkflowInput) -> client.WorkflowHandle[Any, Any]:
        if input.start_signal is None:
            what = f"the start of {input.workflow}"
        else:
            what = f"the signal {input.start_signal} with the start of {input.workflow}"
        onward = super().start_workflow
        return await self._keeper.around(what, lambda: onward(input))

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:
        onward = super().signal_workflow
        await self._keeper.around(f"the signal {input.signal}", lambda: onward(input))

    async def start_update_with_start_workflow(
        self, input: client.StartWorkflowUpdateWithStartInput
    ) -> client.WorkflowUpdateHandle[Any]:
        what = f"the update {input.update_workflow_input.update} with its start"
        onward = super().start_update_with_start_workflow
        return await self._keeper.around(what, lambda: onward(input))

    async def start_workflow_update(self, input: client.StartWorkflowUpdateInput) -> client.WorkflowUpdateHandle[Any]:
        onward = super().start_workflow_update
        return await self._keeper.around(f"the update {input.update}", lambda: onward(input))
