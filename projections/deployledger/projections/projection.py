"""What a projection is: a name, a version, a type of row, and a pure fold of events into rows."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import pydantic_core
from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from deployledger.domain.exceptions import ConfigurationError

Row = TypeVar("Row", bound=BaseModel)

_NAME = re.compile(r"(?!sqlite_)[a-z][a-z0-9_]{0,39}")  # SQLite keeps that prefix for itself
_COLUMN_TYPES = (str, int, float, bool, datetime, UUID)
_OF_DEPLOYMENTS = "deployment."

LONGEST_INDEXED_TEXT = 600
"""How many characters a text may have that is in an index: PostgreSQL takes 2,704 bytes for an entry."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection(Generic[Row]):
    """A read model as a pure fold: each event changes one row, and rows depend on events alone.

    The same fold serves following, rebuilding and verifying. A change of what it computes, or of its row,
    needs a higher ``version``: its rows are then built beside those of the version before.

    Attributes:
        name: 1 to 40 lower-case letters, digits and underscores, beginning with a letter.
        version: the version of the fold and of its row, from 1.
        row_type: the pydantic model of a row; it must survive being written as JSON and read again.
        apply: returns the row after an event, from the row before it (None: there is none). None removes
            the row. It may not change the row that it is given.
        topics: which events it reads; None means every event of a deployment.
        key: which row an event belongs to; None means that of the event's own stream.
        columns: fields of the row that the database has as columns of their own, to select and sort by:
            text, integers, floats, booleans, datetimes and UUIDs.
        indexes: groups of columns that are often selected or sorted by.
        counted: a column of truth values; how many rows have each of them is known without counting them.
        temporal: whether the rows that were superseded are kept, each with the positions between which it
            held, so that rows can be selected as they were at any position.
        row_bytes: how many bytes a row may take as JSON in any case; beyond it, the setting decides
            (``DEPLOYLEDGER_LARGEST_ROW_BYTES``).
    """

    name: str
    version: int
    row_type: type[Row]
    apply: Callable[[Row | None, Any], Row | None]
    topics: tuple[str, ...] | None = None
    key: Callable[[Any], str] | None = None
    columns: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    counted: str | None = None
    temporal: bool = False
    row_bytes: int = 0
    column_types: dict[str, type[Any]] = field(init=False, repr=False)
    _indexed_text: tuple[int, ...] = field(init=False, repr=False, default=())
    _storable: set[tuple[type[Any], ...]] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"{self.name!r} is not a valid projection name.",
                hint="Use 1 to 40 lower-case letters, digits and underscores, beginning with a letter.",
            )
        if not isinstance(self.version, int) or self.version < 1:
            raise ConfigurationError(f"Projection {self.name} has version {self.version!r}; the first is 1.")
        if not (isinstance(self.row_type, type) and issubclass(self.row_type, BaseModel)):
            raise ConfigurationError(
                f"The rows of projection {self.name} cannot be stored: "
                f"{self.row_type!r} is not a pydantic model."
            )
        types = {name: self._column_type(name) for name in self.columns}
        object.__setattr__(self, "column_types", types)
        for name in (*(name for names in self.indexes for name in names), *filter(None, [self.counted])):
            if name not in types:
                raise ConfigurationError(f"Projection {self.name} has no column {name!r}.")
        indexed = {name for names in self.indexes for name in names if types[name] is str}
        places = tuple(place for place, name in enumerate(self.columns) if name in indexed)
        object.__setattr__(self, "_indexed_text", places)
        if self.counted is not None and types[self.counted] is not bool:
            raise ConfigurationError(f"Column {self.counted!r} of projection {self.name} is not a bool.")

    def _column_type(self, name: str) -> type:
        field = self.row_type.model_fields.get(name)
        if field is None:
            raise ConfigurationError(
                f"The rows of projection {self.name} have no field {name!r} to make a column of."
            )
        annotation: Any = field.annotation
        if get_origin(annotation) in (Union, UnionType):
            types = [kind for kind in get_args(annotation) if kind is not NoneType]
            annotation = types[0] if len(types) == 1 else annotation
        for column_type in (bool, *_COLUMN_TYPES):
            if isinstance(annotation, type) and issubclass(annotation, column_type):
                return column_type
        raise ConfigurationError(
            f"Field {name!r} of projection {self.name} cannot be a column: {annotation!r} is none of "
            f"{', '.join(kind.__name__ for kind in _COLUMN_TYPES)}.",
            hint="Leave it out of `columns`: it is then stored with the rest of the row.",
        )

    def check_storable(self) -> None:
        """Check that rows survive being stored as JSON, as far as their type says.

        Raises:
            ConfigurationError: if they do not.
        """
        try:
            self.row_type.model_json_schema(mode="serialization")
            self.row_type.model_json_schema(mode="validation")
        except PydanticUserError as error:
            raise ConfigurationError(
                f"The rows of projection {self.name} cannot be stored: {str(error).splitlines()[0]}"
            ) from error

    @property
    def label(self) -> str:
        """The name and the version, for messages."""
        return f"{self.name} version {self.version}"

    @property
    def origin(self) -> str:
        """The version and the fold's qualified name, for messages."""
        apply = getattr(self.apply, "__qualname__", repr(self.apply))
        module = getattr(self.apply, "__module__", None) or self.row_type.__module__
        return f"version {self.version}, applied by {module}:{apply}"

    def is_same_as(self, other: "Projection[Any]") -> bool:
        """Return whether both are the same projection, even if its module was imported under two names."""
        return self is other or (self._definition() is not None and self._definition() == other._definition())

    def _definition(self) -> tuple[Any, ...] | None:
        """Return what it is made of; None if that is more than the code of a file."""
        functions = [function for function in (self.apply, self.key) if function is not None]
        codes = [getattr(function, "__code__", None) for function in functions]
        if None in codes or any(getattr(function, "__closure__", None) for function in functions):
            return None
        return (
            (self.name, self.version, self.topics, self.columns, self.indexes, self.counted, self.temporal),
            (self.row_bytes, self.row_type.__qualname__, list(self.row_type.model_fields)),
            [(code.co_filename, code) for code in codes if code is not None],
        )

    @cached_property
    def shape(self) -> str:
        """A digest of the rows' fields and of how they are stored; a change needs a new version."""
        fields = {name: repr(field.annotation) for name, field in self.row_type.model_fields.items()}
        columns = {name: kind.__name__ for name, kind in self.column_types.items()}
        shape = [fields, columns, self.counted, self.is_by_stream, *(["temporal"] if self.temporal else [])]
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()

    @property
    def is_by_stream(self) -> bool:
        """Whether each stream has a row of its own."""
        return self.key is None

    def reads(self, topic: str) -> bool:
        """Return whether it reads events of a topic, be they known or not."""
        if self.topics is None:
            return topic.startswith(_OF_DEPLOYMENTS)
        return topic in self.topics

    def encode(self, row: Row) -> tuple[tuple[Any, ...], bytes]:
        """Return the values of the columns, and the other fields as JSON.

        Raises:
            ValueError: if it is not a row of this projection.
        """
        if not isinstance(row, self.row_type):
            raise ValueError(f"it returned {type(row).__name__}, not {self.row_type.__name__}")
        if not self.columns:
            return (), row.__pydantic_serializer__.to_json(row)
        values = row.__dict__
        columns = tuple([values[name] for name in self.columns])
        if float in self.column_types.values():
            columns = tuple(map(_as_stored, columns, self.column_types.values()))
        exclude = _columns(self)
        if len(exclude) == len(values):
            return columns, b"{}"
        return columns, row.__pydantic_serializer__.to_json(row, exclude=exclude)

    def check_columns(self, columns: tuple[Any, ...]) -> None:
        """Check that a database can store the values of the columns.

        Raises:
            ValueError: if it cannot.
        """
        for place in self._indexed_text:
            if columns[place] is not None and len(columns[place]) > LONGEST_INDEXED_TEXT:
                raise ValueError(
                    f"column {self.columns[place]!r} has {len(columns[place]):,} characters; "
                    f"{LONGEST_INDEXED_TEXT:,} is the most for one with an index"
                )
        types = tuple(map(type, columns))
        if types not in self._storable:
            self._check_types(columns)
            self._storable.add(types)
        value: Any
        for value in columns:
            kind = type(value)
            if kind is str:
                if "\0" in value:
                    raise ValueError(f"{value!r} has a NUL character, which databases cannot store")
                if not value.isascii():
                    value.encode()  # half a surrogate pair is a ValueError: no database stores that either
            elif kind is datetime:
                if value.tzinfo is None:
                    raise ValueError(f"{value} has no time zone")
            elif kind is int and not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{value} does not fit in 64 bits")

    def _check_types(self, columns: tuple[Any, ...]) -> None:
        for (name, kind), value in zip(self.column_types.items(), columns, strict=True):
            is_wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
            if value is not None and is_wrong:
                raise ValueError(f"column {name!r} is {value!r}, not {kind.__name__}")

    def decode(self, columns: tuple[Any, ...], state: str | bytes) -> Row:
        """Return the row of its stored form."""
        if not self.columns:
            return cast("Row", self.row_type.__pydantic_validator__.validate_json(state))
        fields: dict[str, Any] = pydantic_core.from_json(state)
        fields.update(zip(self.columns, columns, strict=True))
        return self.row_type.model_validate(fields)


def _as_stored(value: Any, kind: type[Any]) -> Any:
    """Return an integer in a column of floats as one of them, as pydantic lets it be."""
    return float(value) if kind is float and type(value) is int else value


@cache
def _columns(projection: Projection[Any]) -> set[str]:
    return set(projection.columns)


class Consistency(StrEnum):
    """How current a read must be."""

    CURRENT = "current"
    """It shows everything that was acknowledged before it began."""
    EVENTUAL = "eventual"
    """It answers at once, and says up to which position of the log."""


# Rows are made and changed once an event. pydantic's own ways of doing so check or copy more than a row
# whose values come from checked events needs, and took most of the time of a rebuild.

_set = object.__setattr__


@cache
def _defaults(row_type: type[BaseModel]) -> dict[str, Any]:
    """Return all fields, in the order in which they are stored."""
    return {
        name: None if field.is_required() else field.get_default(call_default_factory=False)
        for name, field in row_type.model_fields.items()
    }


def new_row(row_type: type[Row], fields: dict[str, Any]) -> Row:
    """Return a row with these fields, which are not checked, and defaults for the others."""
    row = row_type.__new__(row_type)
    _set(row, "__dict__", {**_defaults(row_type), **fields})
    _set(row, "__pydantic_fields_set__", set(fields))
    _set(row, "__pydantic_extra__", None)
    _set(row, "__pydantic_private__", None)
    return row


def changed_row(row: Row, changes: dict[str, Any]) -> Row:
    """Return a copy of the row with these fields changed, which are not checked."""
    copy = row.__class__.__new__(row.__class__)
    _set(copy, "__dict__", {**row.__dict__, **changes})
    _set(copy, "__pydantic_fields_set__", row.__pydantic_fields_set__)
    _set(copy, "__pydantic_extra__", None)
    _set(copy, "__pydantic_private__", None)
    return copy
