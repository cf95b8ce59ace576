"""Subscription tiers: how many agents each may have, and who goes first."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Tier(StrEnum):
    FREE = "free"
    BASIC = "basic"
    PREMIUM = "premium"
    ENTERPRISE = "enterprise"


class TierLimits(BaseModel):
    """Agents a user of each tier may have at once (specification: 1, 3, 10, 50)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    free: int = Field(1, ge=0)
    basic: int = Field(3, ge=0)
    premium: int = Field(10, ge=0)
    enterprise: int = Field(50, ge=0)

    def of(self, tier: Tier) -> int:
        return int(getattr(self, tier.value))


_RANK = {Tier.ENTERPRISE: 1, Tier.PREMIUM: 2, Tier.BASIC: 3, Tier.FREE: 4}


def rank(tier: Tier) -> int:
    """Place of a tier in the queue, 1 goes first."""
    return _RANK[tier]
