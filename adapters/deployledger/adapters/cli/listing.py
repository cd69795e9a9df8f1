"""What ``deployledger list`` is asked for: filters as they are typed, and how to ask for the next page."""

import asyncio
import re
import shlex
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deployledger.adapters.cli.usage import UsageError
from deployledger.domain.target_types import TargetType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deployledger.adapters.cli.session import Session
    from deployledger.domain.schemas import DeploymentPage, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

StatusFilter = Annotated[
    Literal["creating", "updating", "active", "failed", "deleting", "delete_failed", "inactive"] | None,
    typer.Option(help="Filter by status.", show_default=False),
]
NameFilter = Annotated[
    str | None,
    typer.Option(help="Filter by name (case-insensitive substring).", show_default=False),
]
TagFilter = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY[=VALUE]", help="Filter by tag; repeatable.", show_default=False),
]
ModelFilter = Annotated[
    str | None,
    typer.Option(
        "--model-uri", metavar="PREFIX", help="Filter by the beginning of the model URI.", show_default=False
    ),
]
TypeFilter = Annotated[
    TargetType | None,
    typer.Option("--type", help="Filter by type.", show_default=False),
]
SinceFilter = Annotated[
    str | None,
    typer.Option(
        "--since",
        "--updated-after",
        metavar="TIME",
        help="Only those that last changed (or failed) at or after this time: an age, as in 12h or 2h30m, "
        "or a time with its zone, as in 2026-03-01T12:00Z.",
        show_default=False,
    ),
]
UntilFilter = Annotated[
    str | None,
    typer.Option(
        "--until",
        "--updated-before",
        metavar="TIME",
        help="Only those that last changed before this time.",
        show_default=False,
    ),
]
CreatedAfterFilter = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only those requested at or after this time.", show_default=False),
]
CreatedBeforeFilter = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only those requested before this time.", show_default=False),
]

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
            found = datetime.now(UTC) - ago
            return found.replace(microsecond=0) if ago else found  # no age is now, not a while ago
        found = read_time(text)
        return found.astimezone(UTC) if found.tzinfo is not None else check_time(found, text)
    except ConfigurationError as error:  # it has no time zone
        raise UsageError(error.message, hint=error.hint, option=option) from None
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time.", hint=f"Give {_EXAMPLES}.", option=option) from None


def _age(text: str) -> timedelta:
    """Return the age in a text.

    Raises:
        ValueError: if its units are not each smaller than the one before.
    """
    parts = [(unit, int(number)) for number, unit in _PART.findall(text)]
    units = [unit for unit, _ in parts]
    if units != [unit for unit in _UNITS if unit in units]:
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


def when(text: str | None, option: str) -> str | None:
    """Return a moment of the past as it was typed, but the time that is meant for ``now`` or an age."""
    if text is None or not _depends_on_now(text):
        return text
    from deployledger.domain.moments import describe

    time = moment(text, option)
    return describe(time) if time else None


def _depends_on_now(text: str) -> bool:
    return text == _NOW or _AGE.fullmatch(text) is not None


def tags(wanted: "Sequence[str] | None") -> dict[str, str | None]:
    """Return the tags that are given as ``KEY=VALUE``, or as ``KEY`` for any value."""
    found: dict[str, str | None] = {}
    for pair in wanted or []:
        key, equals, value = pair.partition("=")
        if not key:
            raise UsageError("A tag is KEY or KEY=VALUE, but one has no KEY.", option="--tag")
        before = found.get(key)
        if equals and before not in (None, value):
            raise UsageError(
                f"The tag {key!r} was given with two values; a tag has only one.", option="--tag"
            )
        found[key] = value if equals else before
    return found


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which deployments are asked for, as it was typed: all of the filters must hold.

    Raises:
        UsageError: if a filter is malformed, or no time can be in a range of time.
    """

    status: str | None = None
    name: str | None = None
    tag: "Sequence[str] | None" = None
    model_uri: str | None = None
    type_: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether there is any filter."""
        return any(getattr(self, it.name) not in (None, []) for it in fields(self))

    @cached_property
    def moments(self) -> dict[str, tuple[str | None, datetime | None]]:
        """Each option for a time, as it was typed and as it was understood."""
        typed = {
            "--created-after": self.created_after,
            "--created-before": self.created_before,
            "--since": self.since,
            "--until": self.until,
        }
        found = {option: (text, moment(text, option)) for option, text in typed.items()}
        for first, second in (("--created-after", "--created-before"), ("--since", "--until")):
            check_range((first, found[first][1]), (second, found[second][1]))
        return found

    def arguments(self) -> dict[str, Any]:
        """Return them as ``DeploymentService.list_deployments`` takes them."""
        return {
            "status": self.status,
            "name_contains": self.name,
            "tags": tags(self.tag) or None,
            "model_uri_prefix": self.model_uri,
            "target_type": self.type_,
            "created_after": self.moments["--created-after"][1],
            "created_before": self.moments["--created-before"][1],
            "updated_after": self.moments["--since"][1],
            "updated_before": self.moments["--until"][1],
        }


async def time_of(as_of: str, position: int | None, service: "DeploymentService") -> datetime | None:
    """Return the time of the past that was asked for, or at which the event at the position happened."""
    from deployledger.domain.moments import check

    moment = check(as_of)
    if isinstance(moment, datetime) or position is None:
        return moment if isinstance(moment, datetime) else None
    log = service.event_log
    return await asyncio.to_thread(lambda: log.times().time_of(position) or log.recorded_at(position))


def as_of(page: "DeploymentPage", time: datetime | None) -> str:
    """Return the moment of the past that a page is of."""
    from deployledger.domain.moments import describe

    return (
        f"As of {describe(time)} (position {page.position})." if time else f"As of position {page.position}."
    )


def next_page(
    page: "DeploymentPage",
    moments: "Mapping[str, tuple[str | None, datetime | None]]",
    *,
    is_past: bool = False,
) -> str:
    """Return how many deployments of how many are on a page, and what to add for the next one.

    Args:
        moments: each option for a time, as it was typed and as it was understood. An age is another time
            with each command, but the next page is one of the same list.
        is_past: whether the page is of a moment of the past.
    """
    fixed = [
        f"{option} {at.isoformat()}"
        for option, (text, at) in moments.items()
        if at and _depends_on_now(text or "")
    ]
    if is_past:
        fixed.append(f"--as-of {page.position}")
    options = " ".join([*fixed, f"--cursor {shlex.quote(page.next_cursor or '')}"])
    return f"{len(page):,} of {page.total:,}. Next page: {options}"


def say_parked(session: "Session", deployments: "Sequence[DeploymentStatusResponse]") -> None:
    """Say that some deployments of a list are not shown as their last events left them."""
    name, number = deployments[0].deployment_name, len(deployments)
    have = "1 deployment has" if number == 1 else f"{number:,} deployments have"
    session.stderr.print(
        f"{have} events that could not be applied: `deployledger status {name}` says why.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
