"""Lists of deployments: converts requests to selections of rows, and rows to responses."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.domain.moments import AsOf
from deployledger.domain.redaction import shown
from deployledger.domain.responses import DeploymentPage, DeploymentStatus, DeploymentStatusResponse
from deployledger.domain.target_types import TARGET_TYPES
from deployledger.projections import status
from deployledger.projections.deployment_list import DEPLOYMENT_LIST, tag_pattern
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.folding import fold_streams
from deployledger.projections.history import parked_hint, with_parked
from deployledger.projections.projection import Consistency, Projection, changed_row
from deployledger.projections.read_models import ReadModels
from deployledger.projections.rows import StoredRow
from deployledger.projections.selection import KEY, Condition, Selected, Selection
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.past import Past

LARGEST_PAGE = 1000
_SORTS = {"created_at": None, "updated_at": "updated_at", "name": "name", "status": "status"}
_AFTER_HEX = "g"


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which deployments a list has; all of the filters must hold. See ``list_deployments``."""

    status: DeploymentStatus | str | None = None
    name_contains: str | None = None
    tags: dict[str, Any] | None = None
    model_uri_prefix: str | None = None
    target_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None
    include_deleted: bool = False

    def conditions(self) -> tuple[Condition, ...]:
        """Return what the rows must be.

        Raises:
            ConfigurationError: if a filter is malformed, or two of them contradict each other.
        """
        conditions: list[Condition] = []
        if self.status is not None:
            conditions.append(
                Condition("status", "=", _one_of("status", self.status, list(DeploymentStatus)))
            )
        if self.name_contains is not None:
            conditions.append(
                Condition("name", "contains", checked_text("name_contains", self.name_contains))
            )
        for name, value in _tags(self.tags):
            conditions.append(Condition("tags", "has", tag_pattern(name, value)))
        if self.model_uri_prefix is not None:
            prefix = checked_text("model_uri_prefix", self.model_uri_prefix)
            conditions.append(Condition("model_uri", "begins", prefix))
        if self.target_type is not None:
            conditions.append(
                Condition("target_type", "=", _one_of("target_type", self.target_type, TARGET_TYPES))
            )
        for name in ("created", "updated"):
            after, before = getattr(self, f"{name}_after"), getattr(self, f"{name}_before")
            for label, operator, moment in (("after", ">=", after), ("before", "<", before)):
                if moment is not None:
                    _check_moment(f"{name}_{label}", moment)
                    conditions.append(Condition(f"{name}_at", operator, moment))
            if after is not None and before is not None and after >= before:
                raise ConfigurationError(
                    f"{name}_after={after.isoformat()} is not before {name}_before={before.isoformat()}: "
                    "no deployment can be in between."
                )
        return tuple(conditions)

    def fingerprint(self, sort: str, descending: bool) -> str:
        """Return a digest of the filters and the order, by which a cursor knows its list."""
        content = json.dumps([vars(self), sort, descending], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _tags(tags: Any) -> list[tuple[str, Any]]:
    if tags is None:
        return []
    if not isinstance(tags, dict):
        raise ConfigurationError(f"tags={shown(tags)} is not a dict of tags and their values.")
    try:
        json.dumps(tags, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"Invalid tags: {error}.") from None
    return [(checked_text("tags", name), value) for name, value in tags.items()]


def checked_text(name: str, value: Any) -> str:
    """Return a text to look for.

    Raises:
        ConfigurationError: if it is empty, or none that a database can compare something with.
    """
    if not isinstance(value, str) or not value or not is_text(value):
        raise ConfigurationError(f"{name}={shown(value)} is not a valid search text.")
    return value


def is_text(value: str) -> bool:
    """Return whether a database can compare something with it."""
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return "\0" not in value


def _one_of(name: str, value: Any, choices: Any) -> str:
    if value not in choices:
        raise ConfigurationError(f"Unknown {name} {shown(value)}.", hint=f"Use one of {', '.join(choices)}.")
    return str(value)


def _check_moment(name: str, moment: Any) -> None:
    if not isinstance(moment, datetime):
        raise ConfigurationError(f"{name}={shown(moment)} is not a datetime.")
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{name}={moment.isoformat()} has no time zone.",
            hint="Give it one, as in datetime(2026, 3, 1, tzinfo=UTC).",
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One page of a list of deployments, as it is asked for. See ``list_deployments``.

    Raises:
        ConfigurationError: if a part of it is malformed or out of range.
    """

    limit: int = 100
    offset: int = 0
    cursor: str | None = None
    sort: str = "created_at"
    descending: bool = False
    filters: Filters = field(default_factory=Filters)
    as_of: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.limit) or not 1 <= self.limit <= LARGEST_PAGE:
            raise ConfigurationError(
                f"limit={shown(self.limit)} is out of range: limit is 1 to {LARGEST_PAGE}."
            )
        if not _is_number(self.offset) or not 0 <= self.offset < 1 << 63:
            raise ConfigurationError(f"offset={shown(self.offset)} is out of range: offset is 0 or more.")
        if not isinstance(self.sort, str) or self.sort not in _SORTS:
            raise ConfigurationError(
                f"Cannot sort by {shown(self.sort)}.", hint=f"Use one of {', '.join(_SORTS)}."
            )
        if self.cursor is not None and self.offset:
            raise ConfigurationError(
                f"offset={self.offset} and a cursor contradict each other: both say where to begin."
            )

    @property
    def _fingerprint(self) -> str:
        return self.filters.fingerprint(self.sort, self.descending)

    def selection(self) -> Selection:
        """Return the rows that the page is made of, and one more, which tells whether it is the last."""
        return Selection(
            conditions=self.filters.conditions(),
            counted=None if self.filters.include_deleted else False,
            sort=_SORTS[self.sort],
            descending=self.descending,
            after=self._after(self.cursor) if self.cursor is not None else None,
            offset=self.offset,
            limit=self.limit + 1,
        )

    def _after(self, cursor: str) -> tuple[Any, int]:
        try:
            value: Any
            content = json.loads(base64.b64decode(cursor.encode(), b"-_", validate=True))
            fingerprint, value, position, *of_moment = content
            if not all(map(_is_number, of_moment)) or len(of_moment) > 1:
                raise ValueError
            if not _is_number(position) or not 0 <= position < 1 << 63:
                raise ValueError
            if not isinstance(value, str | None) or not is_text(value or ""):
                raise ValueError
            if self.sort == "updated_at":
                value = datetime.fromisoformat(value or "")
                _check_moment("cursor", value)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError(
                f"{shown(cursor)} is not a cursor of a list of deployments.",
                hint="Pass the next_cursor of the previous page unchanged.",
            ) from None
        if fingerprint != self._fingerprint:
            raise ConfigurationError(
                "The cursor belongs to a list with other filters or another order.",
                hint="Use the filters and the order of the page that it came from.",
            )
        as_of = of_moment[0] if of_moment else None
        if as_of != self.as_of:
            raise ConfigurationError(
                f"The cursor belongs to the list {_moment(as_of)}, not to the one {_moment(self.as_of)}.",
                hint=f"Pass as_of={as_of} to continue." if as_of else "Omit as_of to continue.",
            )
        return value, position

    def page(self, selected: Selected, answers: Iterable[DeploymentStatusResponse]) -> DeploymentPage:
        """Return the selected rows as a page.

        Args:
            answers: the status of each row of the page, without the extra row.
        """
        cursor = None
        if len(selected.rows) > self.limit:
            last = selected.rows[self.limit - 1]
            value = last.sorted_by if _SORTS[self.sort] else None
            of_moment = [] if self.as_of is None else [self.as_of]
            content = [self._fingerprint, value, last.first_position, *of_moment]
            cursor = base64.b64encode(
                json.dumps(content, default=datetime.isoformat).encode(), b"-_"
            ).decode()
        return DeploymentPage(
            answers,
            total=selected.total,
            next_cursor=cursor,
            position=selected.position,
        )


def _moment(as_of: int | None) -> str:
    return "as it is now" if as_of is None else f"as of position {as_of}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def list_page(models: ReadModels, listing: Listing, consistency: Consistency | str) -> DeploymentPage:
    """Return one page of a list of deployments."""
    selected = models.select(
        DEPLOYMENT_LIST, listing.selection(), answer=DEPLOYMENT_STATUS, consistency=consistency
    )
    page = listing.page(
        selected, [answer(models, selected_row.row) for selected_row in selected.rows[: listing.limit]]
    )
    page.warning = warning(selected, DEPLOYMENT_LIST)
    return page


def page_as_of(models: ReadModels, past: Past, listing: Listing, as_of: AsOf | str) -> DeploymentPage:
    """Return one page of the list of deployments as it was at a moment.

    Raises:
        ConfigurationError: if the moment is invalid, or a revision.
    """
    position = past.position(as_of)
    listing = replace(listing, as_of=position)
    selected = models.select_as_of(DEPLOYMENT_TIMELINE, listing.selection(), position)
    shown_keys = [selected_row.row.key for selected_row in selected.rows[: listing.limit]]
    page = listing.page(selected._replace(position=position), _answers(models, shown_keys, position))
    page.warning = warning(selected, DEPLOYMENT_TIMELINE)
    return page


def _answers(models: ReadModels, of_keys: Sequence[str], position: int) -> list[DeploymentStatusResponse]:
    """Return what the service would have answered about some deployments."""
    raws = [*chain.from_iterable(models.log.records(streams=[UUID(key) for key in of_keys], until=position))]
    folded = fold_streams(DEPLOYMENT_STATUS, models.log, raws, largest_row=models.largest_row)
    answers = []
    for key in of_keys:
        row, parked = folded[key]
        if row is None:
            raise ReadModelError(
                f"{key} cannot be shown: event {parked[0].position} of the log cannot be applied "
                f"({parked[0].error}).",
                hint="Upgrade deployledger, or restore the database from a backup.",
            )
        answered = status.respond(row)
        if parked:
            answered = with_parked(answered, len(parked), parked[0].position, parked[0].error)
        answers.append(changed_row(answered, {"position": position}))
    return answers


def warning(selected: Selected, projection: Projection[Any]) -> str:
    """Return why a list that is selected from a projection may not be right, or an empty text."""
    if selected.parked_from is None:
        return ""
    return (
        "Deployments may be missing or out of place: events could not be applied, from position "
        f"{selected.parked_from} on. {parked_hint(projection.name)}"
    )


def answer(models: ReadModels, stored: StoredRow) -> DeploymentStatusResponse:
    """Return a stored row as what the service answers; it says so if events could not be applied."""
    answered = status.respond(models.row_of(DEPLOYMENT_STATUS, stored))
    if stored.parked_from is None:
        return answered
    parked = models.store.parked(DEPLOYMENT_STATUS, stored.key)
    error = parked[0].error if parked else "why is not known"
    return with_parked(answered, len(parked), stored.parked_from, error)


def keys(
    models: ReadModels, *conditions: Condition, newest_first: bool = False, limit: int | None = None
) -> list[str]:
    """Return the ids of all deployments of which the conditions hold, deleted ones among them."""
    ids: list[str] = []
    after: tuple[Any, int] | None = None
    while limit is None or len(ids) < limit:
        selection = Selection(
            conditions=conditions,
            descending=newest_first,
            after=after,
            limit=LARGEST_PAGE if limit is None else limit - len(ids),
        )
        rows = models.select(DEPLOYMENT_LIST, selection).rows
        if not rows:
            break
        ids += [selected_row.row.key for selected_row in rows]
        after = (None, rows[-1].first_position)
    return ids


def begins(prefix: str) -> tuple[Condition, Condition]:
    """Return the conditions for ids that begin so."""
    return Condition(KEY, ">=", prefix), Condition(KEY, "<", prefix + _AFTER_HEX)
