"""Moments and ranges of time, as they are typed."""

from datetime import UTC, datetime, timedelta

import pytest

from deployledger.adapters.cli.filters import Filters
from deployledger.adapters.cli.typed_times import moment
from deployledger.adapters.cli.usage import UsageError


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("2h30m", timedelta(hours=2.5)),
        ("1w2d3h4m5s", timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5)),
        ("0s", timedelta()),
        ("now", timedelta()),
    ],
)
def test_an_age_is_so_long_before_now(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    found = moment(text, "--since")
    assert found is not None
    assert before - ago <= found <= datetime.now(UTC) - ago


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "yesterday",
        "r2",
        "12",
        "h",
        "1.5h",
        "-2h",
        "2h ago",
        "30m2h",
        "1h1h",
        "2H",
        "2 h",
        "0001-01-01T00:00+14:00",
    ],
)
def test_what_is_neither_a_time_nor_an_age_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        moment(text, "--since")
    assert refusal.value.format_message() == f"Invalid value for '--since': {text!r} is not a time."
    assert refusal.value.hint.startswith("Give a time with its zone, as in 2026-03-01T12:00:00Z")


@pytest.mark.parametrize(
    ("since", "until", "message", "hint"),
    [
        ("1h", "2h", "is not before --until (", "Give --since the earlier time"),
        ("2026-03-01T12:00Z", "2026-03-01T12:00+00:00", "the range is empty", "the earlier time"),
        (
            "2100-01-01T00:00Z",
            None,
            "2100-01-01T00:00Z is in the future",
            "Use a time in the past for --since.",
        ),
        ("2026-03-01T12:00", None, "has no time zone", "If it is in UTC, give it as 2026-03-01T12:00Z."),
        (None, "2026-03-01", "has no time zone", "give it as 2026-03-01T00:00Z."),
    ],
)
def test_a_range_in_which_nothing_can_be_is_refused(
    since: str | None, until: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        Filters(since=since, until=until).arguments()
    assert message in refusal.value.format_message()
    assert hint in refusal.value.hint


def test_a_range_may_end_in_the_future() -> None:
    found = Filters(since="2h", until="2100-01-01T00:00Z").arguments()
    assert found["updated_before"] == datetime(2100, 1, 1, tzinfo=UTC)
