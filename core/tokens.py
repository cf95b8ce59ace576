"""Random tokens of agents and tickets, and the one hash under which they are kept."""

import hashlib
import secrets

from pydantic import SecretStr

_BYTES = 32


def new_token(prefix: str) -> SecretStr:
    """A fresh token, `{prefix}_` and 43 characters that carry 256 random bits."""
    return SecretStr(f"{prefix}_{secrets.token_urlsafe(_BYTES)}")


def hash_token(value: str) -> str:
    """SHA-256 in hex. Enough for random tokens: there is nothing to guess, so nothing to slow down."""
    return hashlib.sha256(value.encode()).hexdigest()
