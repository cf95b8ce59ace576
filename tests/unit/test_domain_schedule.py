"""When a start is: which texts are times, and which times are now, later, or too far."""

from datetime import UTC, datetime, timedelta

import pytest

from core.domain.schedule import MOST_AHEAD, Later, Now, TooFar, moment, when

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-01T09:00:00+01:00", "2026-12-01T08:00:00+00:00"),
        ("2026-12-01T09:00:00Z", "2026-12-01T09:00:00+00:00"),
        ("2026-12-01T09:00-05:30", "2026-12-01T14:30:00+00:00"),
        ("2026-12-01 09:00:00.25+00:00", "2026-12-01T09:00:00.250000+00:00"),
        ("2026-12-01T00:30:00+14:00", "2026-11-30T10:30:00+00:00"),
    ],
)
def test_time_with_a_zone_is_read_in_utc(text: str, utc: str) -> None:
    assert moment(text).isoformat() == utc


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01T09:00:00",
        "2026-12-01",
        "2026-12-01T09:00:00+25:00",
        "2026-12-01T09:00:00 Europe/Berlin",
        "2026-12-01T09:00:00[Europe/Berlin]",
        "2026-13-01T09:00:00Z",
        "2026-02-30T09:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1764576000",
        "tomorrow",
        "",
        "\x00",
    ],
)
def test_text_that_is_no_time_or_has_no_zone_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        moment(text)


def test_no_time_and_one_that_has_passed_are_now() -> None:
    for at in (None, NOW, NOW - timedelta(microseconds=1), datetime.min.replace(tzinfo=UTC)):
        assert when(at, NOW) == Now()


def test_a_month_ahead_is_later_and_any_more_is_too_far() -> None:
    for at in (NOW + timedelta(microseconds=1), NOW + MOST_AHEAD):
        assert when(at, NOW) == Later(at=at)
    for at in (NOW + MOST_AHEAD + timedelta(microseconds=1), datetime.max.replace(tzinfo=UTC)):
        assert when(at, NOW) == TooFar(latest=NOW + MOST_AHEAD)
