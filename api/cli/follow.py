"""The live stream of events, followed through breaks of the connection without losing one."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus
from websockets.sync.client import connect

from api.cli import show
from api.cli.client import Berth, fault_of_problem
from api.cli.faults import Fault, TurnedDown, Unreachable, WrongUse

_OPEN_SECONDS = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_ITS_TIME_IS_UP = 4408  # sockets end by themselves now and then; nothing is wrong
_REFUSALS = {4400, 4401, 4403}


def events(berth: Berth, after: str | None, opened: Callable[[], None] | None = None) -> Iterator[dict[str, Any]]:
    """Each event as it happens, from `after` or from now on, for ever; `opened` is called when the stream first stands.

    Raises `Unreachable` when there is no connection at first, `TurnedDown` when Berth refuses; a connection that
    breaks later is made again, and goes on after the last event seen.
    """
    pause = _FIRST_PAUSE
    was_open = False
    while True:
        try:
            with _open(berth, after) as socket:
                if opened is not None and not was_open:
                    opened()
                was_open, pause = True, _FIRST_PAUSE
                for message in socket:
                    event = json.loads(message)
                    after = event["cursor"]
                    yield event
        except ConnectionClosed as closed:
            # The reason belongs to the close frame, and there is none when the connection just broke.
            if closed.rcvd is not None and closed.rcvd.code in _REFUSALS:
                raise TurnedDown(f"Berth closed the stream: {closed.rcvd.reason}") from None
            if closed.rcvd is not None and closed.rcvd.code == _ITS_TIME_IS_UP:
                continue
        except InvalidProxy:
            # Without its address, which may hold a password.
            raise WrongUse("what the environment names as the proxy is none", "see HTTP_PROXY, HTTPS_PROXY") from None
        except InvalidStatus as error:
            fault = _fault(berth, error)
            if not (was_open and isinstance(fault, Unreachable)):
                raise fault from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            if not was_open:
                raise Unreachable(
                    f"no Berth answers at {berth.url}", "set BERTH_API_URL, or start one: berth up"
                ) from error
        show.note(f"berth: the connection broke; trying again in {pause:g} s")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _open(berth: Berth, after: str | None) -> Any:
    query = f"?{urlencode({'after': after})}" if after else ""
    return connect(
        f"ws{berth.url.removeprefix('http')}/ws/events{query}",
        additional_headers={"Authorization": f"Bearer {berth.token}"},
        open_timeout=_OPEN_SECONDS,
        close_timeout=1,
        compression=None,
        # True: as the environment says, like all else that is asked of Berth.
        proxy=True if berth.by_proxy else None,
    )


def _fault(berth: Berth, error: InvalidStatus) -> Fault:
    status = error.response.status_code
    try:
        problem = json.loads(error.response.body or b"")
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return Unreachable(f"what answers at {berth.url} is no Berth (HTTP {status})", "set BERTH_API_URL")
    return fault_of_problem(status, problem)
