"""Moments of the past: a time, a position of the event log, or a revision of a deployment."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import shown

LARGEST = 2**63 - 1
"""The largest number that a database counts to."""

_NUMBER = re.compile(r"(?P<revision>r|revision:)?(?P<digits>[0-9]+)")
_MOST_DIGITS = len(str(LARGEST))
_IN_UTC = re.compile(r" ?UTC$")
_FORMS = (
    "Give a time with its zone, as in 2026-03-03T12:00Z; a position of the event log, as in 1234; "
    "or a revision, as in r2."
)
_FORMS_OF_ALL = (
    "Give a time with its zone, as in 2026-03-03T12:00Z, or a position of the event log, as in 1234."
)


@dataclass(frozen=True)
class AtRevision:
    """The last moment at which a revision was the newest one of its deployment."""

    number: int

    def __str__(self) -> str:
        return f"r{self.number}"


AsOf = datetime | int | AtRevision
"""A moment: the time at which events were recorded, a position of the event log, or a revision."""


def parse(text: str) -> AsOf:
    """Return the moment that a text names.

    Args:
        text: an ISO 8601 time with its zone, also as it is often shown (``2026-03-03 12:00 UTC``); a position
            (``1234``); or a revision (``r2``, ``revision:2``).

    Raises:
        ConfigurationError: if it names none.
    """
    if number := _NUMBER.fullmatch(text):
        digits = number["digits"].lstrip("0")
        if len(digits) > _MOST_DIGITS or not _is_number(int(digits or "0")):
            raise _no_moment(text)
        return AtRevision(int(digits)) if number["revision"] else int(digits)
    try:
        moment = read_time(text)
    except ValueError:
        raise _no_moment(text) from None
    return check_time(moment, text)


def read_time(text: str) -> datetime:
    """Return the ISO 8601 time in a text; its zone, if it has one, may also be written ``UTC``.

    Raises:
        ValueError: if it cannot be parsed.
    """
    return datetime.fromisoformat(_IN_UTC.sub("+00:00", text))


def check(as_of: AsOf | str, *, of_all: bool = False) -> AsOf:
    """Return a moment that was given from Python, or as a text; times are in UTC.

    Args:
        of_all: whether it is to be one of all deployments, which a revision is not.

    Raises:
        ConfigurationError: if it is invalid.
    """
    try:
        moment = _check(as_of)
    except ConfigurationError as error:
        if of_all and error.hint == _FORMS:
            error.hint = _FORMS_OF_ALL
        raise
    if of_all and isinstance(moment, AtRevision):
        raise ConfigurationError(
            f"There is no {describe(moment)} of all deployments: each has its own.", hint=_FORMS_OF_ALL
        )
    return moment


def _check(as_of: AsOf | str) -> AsOf:
    match as_of:
        case str():
            return parse(as_of)
        case datetime():
            return check_time(as_of)
        case int() if _is_number(as_of):
            return as_of
        case AtRevision() if _is_number(as_of.number):
            return as_of
        case _:
            raise _no_moment(as_of)


def check_time(moment: datetime, text: str = "") -> datetime:
    """Return a time in UTC.

    Args:
        text: the time as it was given, if it was given as a text.

    Raises:
        ConfigurationError: if it has no time zone, or UTC has no such time.
    """
    if moment.utcoffset() is None:
        raise ConfigurationError(
            f"The time {shown(text or moment.isoformat())} has no time zone.",
            hint=f"If it is in UTC, give it as {_written(moment)}.",
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise _no_moment(text or moment.isoformat()) from None


def describe(as_of: AsOf) -> str:
    """Return a moment in words."""
    match as_of:
        case datetime():
            return _written(as_of)
        case AtRevision():
            return f"revision {as_of.number}"
        case _:
            return f"position {as_of}"


def _written(moment: datetime) -> str:
    precision = "microseconds" if moment.microsecond else "seconds" if moment.second else "minutes"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _is_number(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def _no_moment(value: object) -> ConfigurationError:
    problem = f"Cannot parse {shown(value)} as a point in time."
    if type(value) is int:
        problem = f"There is no position {shown(value)}."
    elif isinstance(value, AtRevision):
        problem = f"There is no revision {shown(value.number)}."
    return ConfigurationError(problem, hint=_FORMS)
