"""Who calls: bearer tokens (JWT) signed with our own secret or by an issuer whose keys are at a JWKS address."""

import asyncio
import time
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import httpx2
import jwt
import structlog
from pydantic import BaseModel, ConfigDict

from core.errors import Unauthenticated, Unavailable
from core.ids import MalformedId, check_id
from core.settings import Auth

log = structlog.get_logger()

_LEEWAY_SECONDS = 10
_MOST_TOKEN_CHARACTERS = 16_384
# Public keys only: with a symmetric algorithm in this list, anyone who reads the key set could sign.
_ISSUER_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
_REFETCH_SECONDS = 30.0
_KEYS_LAST_SECONDS = 3600.0


class Role(StrEnum):
    USER = "user"
    ADMIN = "admin"


class Identity(BaseModel):
    """A verified token's bearer. Whether Berth knows the user is asked of the database, with each request."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    user_id: str
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN


class Verifier(Protocol):
    async def verify(self, token: str) -> Identity:
        """Raises `Unauthenticated`, or `Unavailable` when the issuer's keys cannot be had."""


class SecretVerifier:
    """HS256 with the secret of the settings."""

    def __init__(self, secret: str, audience: str | None) -> None:
        self._secret = secret
        self._audience = audience

    async def verify(self, token: str) -> Identity:
        return _decode(token, self._secret, ["HS256"], self._audience)


class JwksVerifier:
    """Keys of an issuer, fetched when needed, kept for an hour, asked again at most every 30 s for a key id we lack."""

    def __init__(self, url: str, audience: str) -> None:
        self._url = url
        self._audience = audience
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def verify(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _refusal() from None
        algorithm = header.get("alg")
        if algorithm not in _ISSUER_ALGORITHMS:
            raise _refusal()
        key = await self._key(str(header.get("kid", "")))
        if key.algorithm_name != algorithm:
            raise _refusal()
        return _decode(token, key, [algorithm], self._audience)

    async def _key(self, key_id: str) -> jwt.PyJWK:
        now = time.monotonic()
        if key_id not in self._keys:
            # Nobody can be let in by a key we lack, so whoever shows it waits.
            if self._asks() or (now - self._fetched > _REFETCH_SECONDS and self._may_try()):
                await asyncio.shield(self._fetch())
            if not self._keys:
                raise Unavailable("the token issuer's keys cannot be fetched", code="issuer_unavailable")
        elif now - self._fetched > _KEYS_LAST_SECONDS and not self._asks() and self._may_try():
            # Known keys go on working, also while the issuer is silent; they are renewed beside the requests.
            self._fetch()
        if key_id not in self._keys:
            raise _refusal()
        return self._keys[key_id]

    def _asks(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _may_try(self) -> bool:
        """Whether the issuer may be asked now: without keys always, else not again at once after a try that failed."""
        return not self._keys or time.monotonic() - self._tried > _REFETCH_SECONDS

    def _fetch(self) -> asyncio.Task[None]:
        """One try for all who come while it lasts: one behind the other, each would wait for all before."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._try(), name="issuer's keys")
        return self._fetching

    async def _try(self) -> None:
        self._tried = time.monotonic()
        try:
            async with httpx2.AsyncClient(timeout=5) as client:
                found = (await client.get(self._url)).raise_for_status()
            keys = jwt.PyJWKSet.from_dict(found.json()).keys
        except (httpx2.HTTPError, jwt.PyJWTError, ValueError) as error:
            log.warning("auth.keys_unavailable", kind=type(error).__name__)
            return
        self._keys = {key.key_id or "": key for key in keys}
        self._fetched = time.monotonic()


def open_verifier(auth: Auth) -> Verifier:
    """The verifier that the settings ask for; raises ValueError when they hold neither secret nor key set."""
    auth.require()
    if auth.jwks_url:
        return JwksVerifier(auth.jwks_url, auth.audience or "")
    secret = auth.secret.get_secret_value() if auth.secret else ""
    return SecretVerifier(secret, auth.audience)


def issue(auth: Auth, user_id: str, role: Role, now: datetime, lifetime: timedelta) -> str:
    """A token that `open_verifier(auth)` accepts; only with a secret of our own, else ValueError."""
    if auth.secret is None:
        raise ValueError("tokens come from the issuer behind AUTH__JWKS_URL; Berth makes none")
    claims: dict[str, Any] = {"sub": user_id, "role": role.value, "iat": now, "exp": now + lifetime}
    if auth.audience:
        claims["aud"] = auth.audience
    return jwt.encode(claims, auth.secret.get_secret_value(), algorithm="HS256")


def _decode(token: str, key: Any, algorithms: list[str], audience: str | None) -> Identity:
    if len(token) > _MOST_TOKEN_CHARACTERS:
        raise _refusal()
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=audience,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["sub", "role", "exp"]},
        )
        return Identity(user_id=check_id(claims["sub"], "sub"), role=Role(claims["role"]))
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired", action="log_in_again") from None
    except (jwt.PyJWTError, MalformedId, ValueError, TypeError):
        # Which check failed is no business of whoever forged it.
        raise _refusal() from None


def _refusal() -> Unauthenticated:
    return Unauthenticated("the token is not one that Berth accepts", action="log_in_again")
