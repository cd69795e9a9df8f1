"""Makes event records of rows of SQLite, a page at a time: a call for each row would take a fifth longer."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from deployledger.adapters.event_log.damage import damaged
from deployledger.domain.event_records import EventRecord

_ID_BYTES = 16
_TYPES: list[set[type]] = [{int}, {str}, {int}, {str}, {bytes}, {str}, {int}, {str, type(None)}]
"""The types of all columns but those of ids that may be missing."""
_NO_METADATA: Any = (repeat(b""), repeat(0), repeat(None), repeat(None), repeat(None))
_new_record: Any = partial(tuple.__new__, EventRecord)  # its own constructor takes much longer


def records_of(rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
    """Return the events of rows; whatever of one has not the type that it should makes it a damaged one."""
    if not rows:
        return []
    try:
        return [*map(_new_record, _fields_of(rows))]
    except (ValueError, TypeError):
        return [damaged(rows[0])] if len(rows) == 1 else [records_of([row])[0] for row in rows]


def _fields_of(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Return the fields of each row's record.

    Raises:
        ValueError, TypeError: if a row is damaged.
    """
    columns = [*zip(*rows, strict=True)]
    for column, types in zip(columns, _TYPES, strict=False):
        if not types.issuperset(map(type, column)):
            raise TypeError("a column has another type")
    position, stream, version, topic, state, *metadata = columns
    event = position, _ids(stream), version, topic, state
    if not metadata:
        return zip(*event, *_NO_METADATA, strict=False)
    event_id, recorded_at, actor, correlation, causation = metadata
    more = _ids(event_id), recorded_at, actor, _ids(correlation), _ids(causation)
    return zip(*event, *more, strict=True)


def _ids(column: Sequence[str | None]) -> Sequence[bytes | None]:
    stored = column if None not in column else [text for text in column if text is not None]
    texts = "".join(stored)  # type: ignore[arg-type]
    ids = bytes.fromhex(texts)
    if ids.hex() != texts or not {2 * _ID_BYTES}.issuperset(map(len, stored)):  # type: ignore[arg-type]
        raise ValueError("there is another text than an id")
    each = [ids[start : start + _ID_BYTES] for start in range(0, len(ids), _ID_BYTES)]
    if stored is column:
        return each
    remaining = iter(each)
    return [None if text is None else next(remaining) for text in column]
