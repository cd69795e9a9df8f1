"""Points in time as databases count them, in microseconds since 1970, and as RFC 3339 writes them."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Return a time, which has a time zone, as microseconds since 1970-01-01 UTC."""
    return (moment - EPOCH) // MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the time (UTC) so many microseconds after 1970-01-01 UTC.

    Raises:
        OverflowError: if no calendar has it.
    """
    return EPOCH + timedelta(0, 0, microseconds)


def rfc3339(moment: datetime) -> str:
    """Return a time in the notation of RFC 3339: in UTC, with microseconds, ended by ``Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
