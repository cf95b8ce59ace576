"""What the domain's own values are made of: they never change, and know no field that is not theirs."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
