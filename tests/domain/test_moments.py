"""Moments of the past, as they are given."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.moments import AsOf, AtRevision, check, describe, parse
from deployledger.domain.timestamps import rfc3339

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
FORMS = ("2026-03-03T12:00Z", "1234", "r2")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-03T12:00Z", NOON),
        ("2026-03-03T12:00:00Z", NOON),
        ("2026-03-03 12:00+00:00", NOON),
        ("2026-03-03 12:00 UTC", NOON),
        ("2026-03-03 12:00:00.250 UTC", NOON + timedelta(seconds=0.25)),
        ("2026-03-03T13:00+01:00", NOON),
        ("2026-03-03T06:30:00.000001-05:30", NOON + timedelta(microseconds=1)),
        ("1", 1),
        ("1234", 1234),
        ("0012", 12),
        (str(2**63 - 1), 2**63 - 1),
        ("r2", AtRevision(2)),
        ("revision:17", AtRevision(17)),
    ],
)
def test_a_moment_is_given_as_a_text(text: str, moment: AsOf) -> None:
    assert parse(text) == moment
    assert check(text) == moment
    assert type(parse(text)) is type(moment)


@pytest.mark.parametrize("moment", ["soon", "r2", AtRevision(2), "r0", 0])
def test_a_moment_of_all_deployments_is_no_revision(moment: AsOf | str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check(moment, of_all=True)
    assert "revision" not in refusal.value.hint
    assert "1234" in refusal.value.hint
    assert check("1234", of_all=True) == 1234


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "0",
        "00",
        "-1",
        "+1",
        "1.0",
        "1_000",
        "١٢",
        str(2**63),
        "9" * 5000,
        "r",
        "r0",
        "r-1",
        "R2",
        "rev2",
        "revision:",
        "revision:0",
        f"r{2**63}",
        "r" + "9" * 5000,
        "2026-13-03T12:00Z",
        "2026-03-03T25:00Z",
        "0001-01-01T00:00+05:00",
        "9999-12-31T23:00-05:00",
        "True",
        "UTC",
        "2026-03-03T12:00Z UTC",
        "\0",
        "x" * 5000,
    ],
)
def test_a_text_that_names_no_moment(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(text)
    assert repr(text)[1:20].rstrip("'") in refusal.value.message
    assert len(refusal.value.message) < 300
    assert all(form in refusal.value.hint for form in FORMS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2026-03-03T12:00", "2026-03-03T12:00Z"),
        ("2026-03-03T12:00:05", "2026-03-03T12:00:05Z"),
        ("2026-03-03 12:00:05.25", "2026-03-03T12:00:05.250000Z"),
        ("2026-03-03", "2026-03-03T00:00Z"),
    ],
)
def test_a_time_without_a_zone_is_refused_and_told_with_one(text: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match="has no time zone") as refusal:
        parse(text)
    assert repr(text) in refusal.value.message
    assert hint in refusal.value.hint
    with pytest.raises(ConfigurationError, match="has no time zone") as refusal:
        check(datetime.fromisoformat(text))
    assert hint in refusal.value.hint


def test_moments_from_python_are_checked() -> None:
    east = timezone(timedelta(hours=1))
    found = check(datetime(2026, 3, 3, 13, tzinfo=east))
    assert found == NOON
    assert isinstance(found, datetime)
    assert found.tzinfo is UTC
    assert check(7) == 7
    assert check(AtRevision(7)) == AtRevision(7)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**63,
        -(2**70),
        10**5000,
        True,
        False,
        1.5,
        None,
        b"1",
        date(2026, 3, 3),
        AtRevision(0),
        AtRevision(-2),
        AtRevision(2**63),
        AtRevision(True),
        AtRevision("2"),  # type: ignore[arg-type]
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
    ],
    ids=lambda it: type(it).__name__,
)
def test_what_is_no_moment_from_python(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no (position|revision)|Cannot parse") as refusal:
        check(value)
    assert len(refusal.value.message) < 300
    assert all(form in refusal.value.hint for form in FORMS)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (NOON, "2026-03-03T12:00Z"),
        (NOON + timedelta(seconds=1), "2026-03-03T12:00:01Z"),
        (NOON + timedelta(microseconds=1), "2026-03-03T12:00:00.000001Z"),
        (12, "position 12"),
        (AtRevision(3), "revision 3"),
    ],
)
def test_moments_are_described(moment: AsOf, words: str) -> None:
    assert describe(moment) == words


def test_a_time_that_is_shown_can_be_given_back() -> None:
    for time in (NOON, NOON + timedelta(microseconds=1)):
        assert parse(rfc3339(time)) == time
    assert rfc3339(NOON) == "2026-03-03T12:00:00.000000Z"
