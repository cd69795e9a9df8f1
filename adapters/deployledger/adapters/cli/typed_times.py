"""Times as they are typed: ISO 8601 with a zone, ``now``, or an age."""

import re
from datetime import UTC, datetime, timedelta

from deployledger.adapters.cli.usage import UsageError

_AGE = re.compile(r"(?:[0-9]+[wdhms])+")
_PART = re.compile(r"([0-9]+)([wdhms])")
_NOW = "now"
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_EXAMPLES = (
    "a time with its zone, as in 2026-03-01T12:00:00Z or 2026-03-01T12:00+01:00; now; "
    "or an age, as in 90s, 15m, 2h30m, 3d or 1w"
)


def moment(text: str | None, option: str) -> datetime | None:
    """Return the moment (UTC) that an ISO 8601 time or an age names; it has a zone, or is refused."""
    from deployledger.domain.exceptions import ConfigurationError
    from deployledger.domain.moments import check_time, read_time

    if text is None:
        return None
    if text == _NOW:
        return datetime.now(UTC)
    try:
        if _AGE.fullmatch(text):
            ago = _age(text)
            time = datetime.now(UTC) - ago
            return time.replace(microsecond=0) if ago else time  # no age is now, not a while ago
        time = read_time(text)
        return time.astimezone(UTC) if time.tzinfo is not None else check_time(time, text)
    except ConfigurationError as error:  # it has no time zone
        raise UsageError(error.message, hint=error.hint, option=option) from None
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time.", hint=f"Give {_EXAMPLES}.", option=option) from None


def _age(text: str) -> timedelta:
    parts = [(unit, int(number)) for number, unit in _PART.findall(text)]
    units = [unit for unit, _ in parts]
    if units != [unit for unit in _UNITS if unit in units]:  # each is smaller than the one before
        raise ValueError(text)
    return timedelta(**{_UNITS[unit]: number for unit, number in parts})


def check_range(begin: tuple[str, datetime | None], end: tuple[str, datetime | None]) -> None:
    """Refuse a range of time, of two options and their moments, in which nothing can have happened."""
    from deployledger.domain.moments import describe
    from deployledger.domain.times import TOLERANCE

    (first, since), (second, until) = begin, end
    now = datetime.now(UTC)
    if since is not None and since > now + TOLERANCE:
        raise UsageError(
            f"{describe(since)} is in the future: it is {describe(now)} now.",
            hint=f"Use a time in the past for {first}.",
            option=first,
        )
    if since is not None and until is not None and since >= until:
        raise UsageError(
            f"{first} ({describe(since)}) is not before {second} ({describe(until)}): the range is empty.",
            hint=f"Give {first} the earlier time; of two ages, that is the larger one.",
        )


def depends_on_now(text: str | None) -> bool:
    """Return whether a text names another moment with each command."""
    return text is not None and (text == _NOW or _AGE.fullmatch(text) is not None)


def when(text: str | None, option: str) -> str | None:
    """Return a moment of the past as it was typed, but the time that is meant for ``now`` or an age."""
    from deployledger.domain.moments import describe

    time = moment(text, option) if depends_on_now(text) else None
    return describe(time) if time else text
