"""What a keeper keeps: the parts it may be ordered to run, and where it takes orders."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """One program. `environment` is added to the keeper's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}


class Plan(BaseModel):
    """`folder` holds the socket `keeper.sock`, on which orders are taken, and `log/`, a file for each part.

    The keeper enters the control group `group` before anything else, so all it starts is known by that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    group: str | None = None
    parts: tuple[Part, ...]
