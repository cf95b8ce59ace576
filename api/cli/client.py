"""One Berth API as one user sees it: `BERTH_API_URL` and `BERTH_TOKEN`; its refusals are faults of the command."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from api.cli.config import load
from api.cli.faults import Fault, TurnedDown, Unreachable, WrongUse
from api.cli.local import LocalStack

_DEFAULT_URL = "http://127.0.0.1:8000"
_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_PAGE = 200
_MOST_ITEMS = 10_000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HELP = {
    "log_in": "set BERTH_TOKEN; berth token USER prints one",
    "log_in_again": "get a new one: berth token USER",
    "ask_an_administrator": "an administrator makes users: berth token USER",
    "ask_for_membership": "who runs Berth makes projects and members: berth token USER --project PROJECT",
    "ask_for_the_command": "berth agents events AGENT tells when it has ended; --timeout waits longer",
    "upgrade_subscription": "stop another agent, or ask for a higher tier",
}


@dataclass(frozen=True)
class Answer:
    """What Berth said, below status 400."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Berth:
    """Raises `TurnedDown`, `WrongUse`, `Unreachable` or `Fault` for what is no success."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.token = token
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise WrongUse(f"BERTH_API_URL is no http address: {url}")
        # A proxy has no way to this machine's own loopback.
        self.by_proxy = parts.hostname not in _LOOPBACK
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=self.by_proxy,
        )

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        token = os.environ.get("BERTH_TOKEN", "").strip()
        if not token:
            raise WrongUse("BERTH_TOKEN is not set", "berth token USER prints one")
        if not token.isascii() or not token.isprintable():
            raise WrongUse("BERTH_TOKEN is no token: it holds characters that none has")
        berth = cls(api_url(), token)
        try:
            yield berth
        except KeyError as error:
            raise Unreachable(
                f"what answers at {berth.url} is no Berth of this version: no {error} in its answer"
            ) from error
        finally:
            berth._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        seconds: float = _SECONDS,
    ) -> Answer:
        """One request. `path` is encoded already, see `segment`."""
        with self._translated():
            answer = self._http.request(
                method,
                path,
                json=body,
                params=params,
                headers={"Idempotency-Key": key} if key else None,
                timeout=httpx2.Timeout(seconds, connect=_CONNECT_SECONDS),
            )
            if answer.status_code >= 300:
                raise self._fault(answer)
            return Answer(answer.status_code, self._json(answer), answer.headers)

    def items(self, path: str, params: Mapping[str, Any] | None = None, most: int = _MOST_ITEMS) -> list[Any]:
        """All items of a list, over all its pages; at most `most`."""
        found: list[Any] = []
        cursor = None
        while len(found) < most:
            asked = {**(params or {}), "limit": min(_PAGE, most - len(found))} | ({"cursor": cursor} if cursor else {})
            page = self.ask("GET", path, params=asked).body
            found += page["items"]
            cursor = page.get("nextCursor")
            if not cursor or not page["items"]:
                break
        return found

    def stream(
        self, path: str, params: Mapping[str, Any] | None = None, *, silent_seconds: float = _SECONDS
    ) -> Iterator[bytes]:
        """The bytes of an answer as they come.

        Raises `Unreachable` too when it breaks off before its end, or says nothing for so many seconds.
        """
        timeout = httpx2.Timeout(_SECONDS, read=silent_seconds, connect=_CONNECT_SECONDS)
        with self._translated(), self._http.stream("GET", path, params=params, timeout=timeout) as answer:
            if answer.status_code >= 300:
                answer.read()
                raise self._fault(answer)
            try:
                yield from answer.iter_bytes()
            except httpx2.TimeoutException:
                raise
            except httpx2.TransportError as error:
                raise Unreachable("the answer broke off, and is not all there is", "ask again") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx2.InvalidURL as error:
            raise WrongUse(f"BERTH_API_URL is no http address: {error}") from error
        except httpx2.TimeoutException as error:
            raise Unreachable(f"{self.url} did not answer in time") from error
        except httpx2.TransportError as error:
            raise Unreachable(f"no Berth answers at {self.url}", "set BERTH_API_URL, or start one: berth up") from error

    def _json(self, answer: httpx2.Response) -> Any:
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise Unreachable(f"what answers at {self.url} is no Berth", "set BERTH_API_URL") from None

    def _fault(self, answer: httpx2.Response) -> Fault:
        problem = _problem(answer)
        if problem is None:
            return Unreachable(
                f"what answers at {self.url} is no Berth (HTTP {answer.status_code})", "set BERTH_API_URL"
            )
        return fault_of_problem(answer.status_code, problem)


def segment(value: str) -> str:
    """`value` as one segment of a path."""
    return quote(value, safe="")


def fault_of_problem(status: int, problem: Mapping[str, Any]) -> Fault:
    """A problem+json answer as the fault of a command."""
    detail = str(problem.get("detail", "Berth refused"))
    fields = [f"{item['where'].removeprefix('body.')}: {item['problem']}" for item in problem.get("errors") or ()]
    line = f"{detail}: {'; '.join(fields)}" if fields else detail
    code, action = str(problem.get("code", "")), problem.get("action")
    help_ = _HELP.get(str(action), str(action).replace("_", " ")) if action else None
    match status:
        case 413 | 422:
            return WrongUse(line, help_)
        case 400 | 401 | 403 | 404 | 405 | 409 | 429:
            return TurnedDown(line, help_)
        case 503 if code in {"queue_full", "too_many_requests"}:
            return TurnedDown(line, help_ or "try again later")
        case 503:
            return Unreachable(line, help_ or "try again in a moment")
        case _:
            return Fault(line, help_)


def _problem(answer: httpx2.Response) -> dict[str, Any] | None:
    if "problem+json" not in answer.headers.get("content-type", ""):
        return None
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def api_url() -> str:
    """Where the API is: as told, or that of the local stack."""
    given = os.environ.get("BERTH_API_URL", "").strip()
    return given or LocalStack(load().data_dir).described("api") or _DEFAULT_URL
