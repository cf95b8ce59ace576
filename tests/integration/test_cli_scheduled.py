"""Starts to come on the command line, against a real API on a real database."""

import json
from datetime import UTC, datetime, timedelta

from tests.fixtures.terminal import Desk


async def test_start_is_scheduled_shown_explained_and_taken_back(desk: Desk) -> None:
    berth = desk.as_user("owner")
    at = (datetime.now(UTC) + timedelta(hours=5, minutes=1)).isoformat(timespec="seconds")
    told = at.replace("+00:00", "Z")
    explained = await berth("explain", "shop", "--at", at)
    assert (explained.code, explained.out.split()[:3]) == (0, ["would", "be", "scheduled"])
    none = await berth("agents", "scheduled")
    assert (none.code, none.out, none.line.startswith("no start is scheduled")) == (0, "", True)
    booked = await berth("agents", "start", "shop", "--at", at)
    scheduled, state, *when = booked.out.split()
    assert (booked.code, state, " ".join(when)) == (0, "scheduled", f"{told} (in 5 h)")
    shown = (await berth("agents", "scheduled")).out.splitlines()[1]
    assert shown.split() == [scheduled, "shop", "scheduled", told, "(in", "5", "h)"]
    gone = await berth("agents", "unschedule", scheduled)
    assert (gone.code, gone.out.split()) == (0, [scheduled, "shop", "cancelled", told, "user_requested"])
    assert json.loads((await berth("agents", "scheduled", "--json")).out) == []
    (over,) = json.loads((await berth("agents", "scheduled", "--all", "--json")).out)
    assert (over["scheduledStartId"], over["state"]) == (scheduled, "cancelled")


async def test_json_of_a_scheduled_start_is_the_answer_of_the_api(desk: Desk) -> None:
    berth = desk.as_user("owner")
    at = (datetime.now(UTC) + timedelta(hours=5)).isoformat()
    booked = json.loads((await berth("agents", "start", "shop", "--at", at, "--json")).out)
    items = (await desk.api.ask("GET", "/api/scheduled-starts")).json()["items"]
    assert [each["scheduledStartId"] for each in items] == [booked["scheduledStartId"]]
    assert json.loads((await berth("agents", "scheduled", "--json")).out) == items
    gone = json.loads((await berth("agents", "unschedule", booked["scheduledStartId"], "--json")).out)
    assert gone["state"] == "cancelled"


async def test_what_cannot_be_scheduled_is_refused_in_one_line(desk: Desk) -> None:
    berth = desk.as_user("owner")
    naive = await berth("agents", "start", "shop", "--at", "2026-12-01T09:00:00")
    assert (naive.code, "it has no zone" in naive.line) == (2, True)
    both = await berth("agents", "start", "shop", "--at", "2026-12-01T09:00:00Z", "--wait")
    assert (both.code, "do not go together" in both.line) == (2, True)
    unknown = await berth("agents", "unschedule", "ss-0")
    assert (unknown.code, "no such scheduled start" in unknown.line) == (3, True)
