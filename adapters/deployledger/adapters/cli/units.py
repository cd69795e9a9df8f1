"""Formats ages, durations, sizes, digests and times for people. JSON has them in full.

Ages are short, as in tables (``3m``); durations are spelled out (``1 min 20 s``). A clock time is
in the reader's zone on a terminal, and in UTC elsewhere: a file or a pipe may have a reader in another zone.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.handles import path_of
from deployledger.domain.times import TOLERANCE

if TYPE_CHECKING:
    from rich.console import Console

    from deployledger.domain.values import Progress

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_NAMES_OF_ANY_MODEL = ("model", "models", "artifacts", "saved_model")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}(?![0-9a-f])")


def age(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was, as kubectl writes it: ``5s``, ``12m``, ``3h``, ``8d``.

    Of a moment in the future, because a clock is wrong, it is ``?``.

    Args:
        now: the moment to count back from; None means this one.
    """
    passed = (now or datetime.now(UTC)) - moment
    if passed < -TOLERANCE:
        return "?"
    seconds = max(0, int(passed.total_seconds()))
    for unit, size_of_unit in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds >= 2 * size_of_unit or (unit == "d" and seconds >= size_of_unit):
            return f"{seconds // size_of_unit}{unit}"
    return f"{seconds}s"


def duration(seconds: float) -> str:
    """Return a duration in its one or two largest units: ``0.03 s``, ``4.2 s``, ``1 min 20 s``, ``3 d 4 h``.

    Args:
        seconds: how long it was; less than none, because a clock was set back, counts as none.
    """
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, below, length_below in (
        ("d", _DAY, "h", _HOUR),
        ("h", _HOUR, "min", _MINUTE),
        ("min", _MINUTE, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // length_below
            return f"{whole // length:,} {unit} {rest} {below}" if rest else f"{whole // length:,} {unit}"
    return f"{whole} s"


def size(count: int) -> str:
    """Return a number of bytes in the largest unit of which there is at least one, as ``du -h --si`` does."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if unit == "B":
            text = f"{count} B"
        else:
            text = f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
        if value < (1_000 if unit == "B" else 999.5):
            return text
        value /= 1_000
    return f"{value:,.1f} TB"


def number(count: int, noun: str) -> str:
    """Return a number of things: ``1 event``, ``1,024 events``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def shortened(text: str, longest: int) -> str:
    """Return a text, cut at the end if it has more characters than that."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def counted(progress: "Progress") -> str:
    """Return how far a step is in what it counts: ``1,024 of 5,000 rows``; empty if it counts nothing."""
    if progress.done is None:
        return ""
    of = f" of {progress.total:,}" if progress.total else ""
    return f"{progress.done:,}{of} {progress.unit or ''}".rstrip()


def short_digests(text: str) -> str:
    """Return a text in which every digest is as long as tells it from others: ``sha256:213b5c10``."""
    return _DIGEST.sub(r"\1", text)


def model(uri: str) -> str:
    """Return a model as people name it: the file or folder of a path, and every other URI whole.

    A name that says nothing, as in ``iris/model.onnx``, has the folder before it.
    """
    try:
        path = PurePosixPath(path_of(uri) or "")
    except ConfigurationError:
        return uri
    if not path.name:
        return uri
    says_nothing = path.stem in _NAMES_OF_ANY_MODEL or path.name.isdigit()
    return str(PurePosixPath(*path.parts[-2:])) if says_nothing and path.parent.name else path.name


@dataclass(frozen=True)
class Clock:
    """Formats moments for one reader.

    Attributes:
        now: the moment that ages count back from (UTC).
        zone: the zone of clock times; None is that of this machine.
        is_terminal: whether the reader is at a terminal, so that today's date goes without saying.
    """

    now: datetime
    zone: tzinfo | None = None
    is_terminal: bool = True

    @classmethod
    def of(cls, console: "Console", now: datetime | None = None) -> Self:
        """Return the clock for whoever reads a console: in the local zone on a terminal, else in UTC."""
        is_terminal = console.is_terminal
        return cls(now or datetime.now(UTC), None if is_terminal else UTC, is_terminal)

    def age(self, moment: datetime) -> str:
        """Return how long ago a moment was: ``3m``."""
        return age(moment, self.now)

    def time(self, moment: datetime) -> str:
        """Return the clock time to the second: ``14:03:07`` of today, ``2026-03-01 14:03:07`` of other days.

        Where the reader is at no terminal it has its date and zone, as moments of the past are typed:
        ``2026-03-01T14:03:07Z``.
        """
        if not self.is_terminal:
            return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        local = moment.astimezone(self.zone)
        is_today = local.date() == self.now.astimezone(self.zone).date()
        return f"{local:%H:%M:%S}" if is_today else f"{local:%Y-%m-%d %H:%M:%S}"

    def moment(self, moment: datetime) -> str:
        """Return a moment as its age with the clock time beside it: ``3m ago (14:03:07 CET)``."""
        return f"{self.ago(moment)} ({self.zoned_time(moment)})"

    def zoned_time(self, moment: datetime) -> str:
        """Return the clock time as `time` does, with its zone: ``14:03:07 CET``."""
        zone = f" {moment.astimezone(self.zone):%Z}" if self.is_terminal else ""
        return f"{self.time(moment)}{zone}"

    def ago(self, moment: datetime) -> str:
        """Return how long ago a moment was, in a sentence: ``3m ago``, or ``in the future``."""
        passed = age(moment, self.now)
        return "in the future" if passed == "?" else f"{passed} ago"
