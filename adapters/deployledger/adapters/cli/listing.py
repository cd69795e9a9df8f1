"""What ``deployledger list`` is asked for: filters as they are typed, and how to ask for the next page."""

import asyncio
import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deployledger.adapters.cli.session import Session
    from deployledger.domain.schemas import DeploymentPage, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

_AGE = re.compile(r"([0-9]+)([smhdw])")
_NOW = "now"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EXAMPLES = (
    "as in 2026-03-01T12:00:00Z or 2026-03-01T12:00+01:00; now; or an age, as in 90s, 15m, 2h, 3d or 1w"
)


def moment(text: str | None, option: str) -> datetime | None:
    """Return the moment (UTC) that an ISO 8601 time or an age names; it has a zone, or is refused."""
    from deployledger.domain.moments import read_time

    if text is None:
        return None
    if text == _NOW:
        return datetime.now(UTC)
    try:
        if age := _AGE.fullmatch(text):
            ago = timedelta(**{_UNITS[age[2]]: int(age[1])})
            found = datetime.now(UTC) - ago
            return found.replace(microsecond=0) if ago else found  # no age is now, not a while ago
        found = read_time(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time. Give one {_EXAMPLES}.", param_hint=option) from None
    raise typer.BadParameter(f"{text!r} has no time zone. Give it one, {_EXAMPLES}.", param_hint=option)


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
            raise typer.BadParameter(
                "A tag is KEY or KEY=VALUE, and one of those given has no KEY.", param_hint="--tag"
            )
        before = found.get(key)
        if equals and before not in (None, value):
            raise typer.BadParameter(
                f"The tag {key!r} was given with two values: a tag has one.", param_hint="--tag"
            )
        found[key] = value if equals else before
    return found


async def time_of(as_of: str, page: "DeploymentPage", service: "DeploymentService") -> datetime | None:
    """Return the time of the past that was asked for, or at which the event at the position happened."""
    from deployledger.domain.moments import check

    moment = check(as_of)
    if isinstance(moment, datetime):
        return moment
    log = service.event_log
    return await asyncio.to_thread(
        lambda: log.times().time_of(page.position) or log.recorded_at(page.position)
    )


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
