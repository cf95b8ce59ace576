"""What the process says of itself."""

from typing import Literal

from pydantic import Field

from api.schemas.base import Answered


class HealthBody(Answered):
    status: Literal["ok"] = "ok"
    version: str = Field(examples=["0.1.0"])


class ReadyBody(Answered):
    """Each part this process depends on, and `ok`."""

    status: Literal["ready"] = "ready"
    checks: dict[str, str] = Field(examples=[{"database": "ok", "temporal": "ok"}])
