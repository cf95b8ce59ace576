"""Execute a command on one's agent, look at it later, cancel it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request, Response, status
from pydantic import ValidationError

from api.deps import Caller, DepsOf
from api.live.calls import Call
from api.live.departure import departed
from api.live.faults import REFUSALS, error_of
from api.live.hub import Live, live_of
from api.live.ports import now
from api.problems import field_problems, responses
from api.schemas.base import AgentIdPath
from api.schemas.commands import CommandBody, ExecuteAnswer, ExecuteBody
from api.services.access import own_agent
from core.db.repositories import commands
from core.db.repositories.commands import CommandState, CommandView
from core.domain.wire import COMMAND_PARAMETERS, CommandName
from core.errors import Busy, Conflict, InvalidRequest, KeyReused, NotFound
from core.ids import check_id, new_command_id

router = APIRouter(prefix="/api/agents/{agentId}", tags=["commands"])

CommandIdPath = Annotated[str, Path(alias="commandId", max_length=255)]
# What servers call it in their logs; nobody is there to read it.
_CALLER_LEFT = 499


@router.post(
    "/execute",
    summary="Run one command in the agent's browser",
    response_model=ExecuteAnswer,
    responses=responses(
        NotFound,
        (Conflict, "agent_not_ready"),
        (Conflict, "order_refused"),
        *REFUSALS,
        KeyReused,
        Busy,
    ),
)
async def execute(
    request: Request,
    agent_id: AgentIdPath,
    body: ExecuteBody,
    who: Caller,
    deps: DepsOf,
    live: Annotated[Live, Depends(live_of)],
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$"),
    ] = None,
) -> ExecuteAnswer | Response:
    """Waits for the result. The `Idempotency-Key` is the command's id: a repeated one runs once, with one answer."""
    name, parameters = _checked(body)
    async with deps.acting(who):
        pass
    call = Call(
        user_id=who.user_id,
        agent_id=agent_id,
        command_id=key or new_command_id(),
        name=name,
        parameters=parameters,
        seconds=body.timeout_seconds,
    )
    with live.calling.take(who.user_id):
        command = await live.calls.execute(call, departed(request))
    if command.open:
        return Response(status_code=_CALLER_LEFT)
    if command.state is not CommandState.DONE:
        raise error_of(command)
    return ExecuteAnswer(command_id=command.command_id, result=command.result or {})


@router.get("/commands/{commandId}", summary="A command as it stands", responses=responses(NotFound))
async def show(agent_id: AgentIdPath, command_id: CommandIdPath, who: Caller, deps: DepsOf) -> CommandBody:
    async with deps.acting(who) as (session, _):
        agent = await own_agent(session, who, agent_id)
        await commands.expire(session, agent.agent_id, now())
        return CommandBody.of(_own(await commands.get(session, agent.agent_id, check_id(command_id, "commandId"))))


@router.delete(
    "/commands/{commandId}",
    summary="Cancel a command",
    status_code=status.HTTP_202_ACCEPTED,
    responses=responses(NotFound)
    | {
        202: {"description": "The agent was asked to give it up"},
        204: {"description": "It is over: cancelled before it was sent, or ended already"},
    },
    response_class=Response,
)
async def cancel(agent_id: AgentIdPath, command_id: CommandIdPath, who: Caller, deps: DepsOf) -> Response:
    async with deps.acting(who) as (session, _):
        agent = await own_agent(session, who, agent_id)
        asked = _own(await commands.ask_cancel(session, agent.agent_id, check_id(command_id, "commandId"), now()))
    return Response(status_code=status.HTTP_202_ACCEPTED if asked.open else status.HTTP_204_NO_CONTENT)


def _own(command: CommandView | None) -> CommandView:
    if command is None or command.kind != commands.EXECUTE:
        raise NotFound("this agent has no such command")
    return command


def _checked(body: ExecuteBody) -> tuple[CommandName, dict[str, Any]]:
    try:
        name = CommandName(body.command)
    except ValueError:
        known = ", ".join(CommandName)
        raise InvalidRequest(f"there is no such command; there are {known}", code="unknown_command") from None
    try:
        parameters = COMMAND_PARAMETERS[name].model_validate(body.parameters)
    except ValidationError as error:
        problems = [{**item, "where": f"parameters.{item['where']}"} for item in field_problems(error.errors())]
        raise InvalidRequest(
            f"the parameters do not fit the command {name.value}", code="invalid_parameters", errors=problems
        ) from None
    # Only what was said: what the agent takes for granted is its own.
    sent = parameters.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if any("\x00" in value for value in sent.values() if isinstance(value, str)):
        raise InvalidRequest("text must not hold NUL characters", code="invalid_parameters")
    return name, sent
