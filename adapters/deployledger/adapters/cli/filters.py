"""Filters: which deployments a command is about."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal

import typer

from deployledger.adapters.cli.option_groups import GroupOf
from deployledger.adapters.cli.typed_times import check_range, depends_on_now, moment
from deployledger.adapters.cli.usage import UsageError
from deployledger.domain.target_types import TargetType

NameFilter = Annotated[str | None, typer.Option(help="Filter by name (case-insensitive substring).")]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which deployments are asked for, as it was typed: all of the filters must hold.

    Raises:
        UsageError: if a filter is malformed, or no time can be in a range of time.
    """

    status: Annotated[
        Literal["creating", "updating", "active", "failed", "deleting", "delete_failed", "inactive"] | None,
        typer.Option(help="Filter by status."),
    ] = None
    name: NameFilter = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="Filter by tag; repeatable.")
    ] = None
    model_uri: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Filter by the beginning of the model URI.")
    ] = None
    type_: Annotated[TargetType | None, typer.Option("--type", help="Filter by type.")] = None
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            "--updated-after",
            metavar="TIME",
            help="Only those that last changed (or failed) at or after this time: an age, as in 12h or "
            "2h30m, or a time with its zone, as in 2026-03-01T12:00Z.",
        ),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            "--updated-before",
            metavar="TIME",
            help="Only those that last changed before this time.",
        ),
    ] = None
    created_after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those requested at or after this time.")
    ] = None
    created_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those requested before this time.")
    ] = None

    @property
    def are_given(self) -> bool:
        """Whether there is any filter."""
        return any(getattr(self, field.name) not in (None, []) for field in fields(self))

    @cached_property
    def _moments(self) -> dict[str, datetime | None]:
        moments: dict[str, datetime | None] = {}
        for begin, end in (("created_after", "created_before"), ("since", "until")):
            options = [f"--{name.replace('_', '-')}" for name in (begin, end)]
            for name, option in zip((begin, end), options, strict=True):
                moments[name] = moment(getattr(self, name), option)
            check_range((options[0], moments[begin]), (options[1], moments[end]))
        return moments

    @property
    def fixed_times(self) -> list[str]:
        """Options with the times that ages meant: an age is another time with each command."""
        return [
            f"--{name.replace('_', '-')} {time.isoformat()}"
            for name, time in self._moments.items()
            if time and depends_on_now(getattr(self, name))
        ]

    def arguments(self) -> dict[str, Any]:
        """Return them as ``DeploymentService.list_deployments`` takes them."""
        return {
            "status": self.status,
            "name_contains": self.name,
            "tags": tag_filter(self.tag) or None,
            "model_uri_prefix": self.model_uri,
            "target_type": self.type_,
            "created_after": self._moments["created_after"],
            "created_before": self._moments["created_before"],
            "updated_after": self._moments["since"],
            "updated_before": self._moments["until"],
        }


FilterOptions = Annotated[Filters, GroupOf(Filters)]


def tags(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the tags that are given as ``KEY=VALUE``."""
    if any("=" not in pair[1:] for pair in pairs or ()):
        raise UsageError("A tag is KEY=VALUE, but one has no KEY or no '='.", option="--tag")
    return {key: value for key, value in tag_filter(pairs).items() if value is not None}


def tag_filter(pairs: Sequence[str] | None) -> dict[str, str | None]:
    """Return the tags that are given as ``KEY=VALUE``, or as ``KEY`` for any value."""
    wanted: dict[str, str | None] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key:
            raise UsageError("A tag is KEY or KEY=VALUE, but one has no KEY.", option="--tag")
        before = wanted.get(key)
        if equals and before not in (None, value):
            raise UsageError(
                f"The tag {key!r} was given with two values; a tag has only one.", option="--tag"
            )
        wanted[key] = value if equals else before
    return wanted
