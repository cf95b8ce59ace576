"""The agent's Internal API: `POST /execute` and `GET /health`, for Berth only."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import assert_never

from aiohttp import web
from pydantic import ValidationError

from agent_image.agent.doors import Doorkeeper
from agent_image.agent.executor import Executor
from core.domain.wire import MAX_MESSAGE_BYTES, CommandFault, CommandName, ExecuteRequest, Health, to_json
from core.ids import new_command_id


class InternalApi:
    """Routes; the caller runs them."""

    def __init__(
        self,
        doors: Doorkeeper,
        executor: Executor,
        health: Callable[[], Awaitable[Health]],
        repairs: Callable[[], bool],
    ) -> None:
        """`repairs`: whether the browser is just being replaced."""
        self._doors = doors
        self._executor = executor
        self._health = health
        self._repairs = repairs

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES)
        app.add_routes([web.get("/health", self._get_health), web.post("/execute", self._post_execute)])
        return app

    async def _get_health(self, request: web.Request) -> web.Response:
        """The whole to whoever shows the token or asks from this machine; to others no more than a probe needs.

        A kubelet shows no token, and its address is known to nobody.
        """
        if "Origin" in request.headers:
            return web.Response(status=403)
        health = await self._health()
        # Who asks is a probe that kills: an agent that replaces its browser must not die of it.
        well = health.status == "healthy" or self._repairs()
        told = None if self._doors.trusts(request) else {"status"}
        return web.json_response(text=health.model_dump_json(by_alias=True, include=told), status=200 if well else 503)

    async def _post_execute(self, request: web.Request) -> web.Response:
        if (refusal := self._doors.refusal(request)) is not None:
            return refusal
        try:
            asked = ExecuteRequest.model_validate_json(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return _problem(413, "body_too_large", "a body may have 1 MiB")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["loc"] == ("command",) and first["type"] == "enum":
                known = ", ".join(CommandName)
                return _problem(422, CommandFault.UNKNOWN_COMMAND, f"there are the commands {known}")
            where = ".".join(str(part) for part in first["loc"]) or "body"
            return _problem(422, CommandFault.INVALID_PARAMETERS, f"{where}: {first['msg']}")
        command_id = asked.command_id or new_command_id()
        outcome = await self._executor.execute(command_id, asked.command, asked.parameters, asked.timeout_seconds)
        if outcome.fault is None:
            done = {"status": "executed", "commandId": command_id, "result": outcome.result}
            return web.json_response(done, dumps=to_json)
        return _problem(_status(outcome.fault), outcome.fault, outcome.detail, commandId=command_id)


def _problem(status: int, code: str, detail: str, **more: str) -> web.Response:
    body = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail,
    }  # fmt: skip
    return web.json_response(body | more, status=status, content_type="application/problem+json", dumps=to_json)


def _status(fault: CommandFault) -> int:
    match fault:
        case CommandFault.UNKNOWN_COMMAND | CommandFault.INVALID_PARAMETERS | CommandFault.NOT_FOUND:
            return 422
        case CommandFault.REFUSED_ADDRESS:
            return 403
        case CommandFault.BUSY | CommandFault.CANCELLED | CommandFault.NO_MODEL | CommandFault.SHUTTING_DOWN:
            return 409
        case CommandFault.TIMED_OUT:
            return 504
        case CommandFault.RESULT_TOO_LARGE:
            return 413
        case (
            CommandFault.BROWSER_FAILED
            | CommandFault.PAGE_OUT_OF_MEMORY
            | CommandFault.TASK_FAILED
            | CommandFault.NOT_STORED
        ):
            return 502
        case _:
            assert_never(fault)
