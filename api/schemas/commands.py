"""Bodies of execute and of the commands it makes."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from core.db.repositories.commands import CommandState, CommandView
from core.domain.wire import CommandFault, CommandName


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class ExecuteBody(Body):
    """What the agent shall do; `timeoutSeconds` is how long the caller waits for it."""

    model_config = ConfigDict(
        populate_by_name=False,
        json_schema_extra={"example": {"command": "navigate", "parameters": {"url": "https://example.org/"}}},
    )
    command: str = Field(max_length=64, json_schema_extra={"enum": [name.value for name in CommandName]})
    parameters: dict[str, Any] = {}
    timeout_seconds: float = Field(60, gt=0, le=3600)


class ExecuteAnswer(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "executed",
                "commandId": "cmd-01926f3c",
                "result": {"url": "https://example.org/", "title": "Example Domain"},
            }
        }
    )
    status: Literal["executed"] = "executed"
    command_id: str
    result: dict[str, Any]


class CommandBody(Body):
    """A command as it stands: `state` says how far it is, `fault` why it has no result."""

    command_id: str
    agent_id: str
    command: str
    state: CommandState
    created_at: datetime
    deadline_at: datetime = Field(description="the agent gives up by then")
    ended_at: datetime | None
    result: dict[str, Any] | None
    fault: CommandFault | None
    detail: str | None

    @classmethod
    def of(cls, view: CommandView) -> "CommandBody":
        return cls(
            command_id=view.command_id,
            agent_id=view.agent_id,
            command=view.name,
            state=view.state,
            created_at=view.created_at,
            deadline_at=view.deadline_at,
            ended_at=view.ended_at,
            result=view.result,
            fault=view.fault,
            detail=view.fault_detail,
        )
