"""Asking for a desktop."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from api.schemas.base import EXAMPLE_TIME, Answered, Asked


class DesktopMode(StrEnum):
    CONTROL = "control"
    VIEW = "view"


class DesktopBody(Asked):
    """May be left out: then one may look but not touch."""

    mode: DesktopMode = Field(DesktopMode.VIEW, examples=[DesktopMode.CONTROL])


class DesktopAnswer(Answered):
    """`url` works once, until `expiresAt`."""

    url: str = Field(examples=["http://127.0.0.1:8000/desktop/#ticket=tk_c2VjcmV0&mode=control"])
    expires_at: datetime = Field(examples=[EXAMPLE_TIME])
