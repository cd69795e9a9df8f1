"""The lines of an export: what they contain, how they are written and read. docs/moving.md."""

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, BinaryIO, NamedTuple, Protocol, Self
from uuid import UUID

from deployledger.adapters.event_log.import_transaction import BadFileError
from deployledger.domain.event_log import KeyRecord
from deployledger.domain.event_records import EventRecord
from deployledger.domain.timestamps import from_microseconds, rfc3339, to_microseconds

FORMAT = "deployledger-log"
FORMAT_VERSION = 1

LONGEST_LINE = 64 << 20
"""How many bytes a line may have: whoever reads one has it in memory."""

_LONGEST_NAME = 0xFFFF
_LARGEST_INTEGER = (1 << 63) - 1
_HASH_BYTES = 32
_decode = json.JSONDecoder().raw_decode

_HEADER = frozenset(("format", "version", "export_id", "until", "exported_at", "software"))
_EVENT = frozenset(
    (
        "position",
        "stream_id",
        "stream_version",
        "topic",
        "recorded_at",
        "event_id",
        "actor",
        "correlation_id",
        "causation_id",
        "state",
    )
)
_UNDECODED_EVENT = _EVENT - {"state"} | {"state_base64"}
_KEY = frozenset(("key", "fingerprint", "deployment_id", "version", "recorded_at"))
_TRAILER = frozenset(("events", "keys", "root"))


class Progress(Protocol):
    """Is told how far an export or an import has come."""

    def __call__(self, doing: str, done: int, total: int, /) -> None:
        """Take note that ``done`` of ``total`` events are through with what is being done."""
        ...


class BadLineError(BadFileError):
    """The line that was read last is not what has to be there; the message says only why."""


class Header(NamedTuple):
    """The first line.

    Attributes:
        export_id: tells this export from every other one.
        until: the position of the last event that is in it.
    """

    export_id: UUID
    until: int


class Trailer(NamedTuple):
    """The last line: how many events and keys come before it, and the Merkle root of the events."""

    events: int
    keys: int
    root: bytes


# Writing --------------------------------------------------------------------------------------------


def header_line(header: Header, exported_at: datetime, software: str) -> str:
    """Return the first line."""
    return _line(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "export_id": str(header.export_id),
            "until": header.until,
            "exported_at": rfc3339(exported_at),
            "software": software,
        }
    )


def event_line(record: EventRecord) -> str:
    """Return the line of an event.

    Raises:
        ValueError, TypeError, OverflowError, AttributeError: if it has what no event can have.
    """
    # Twice as fast as making JSON of a dictionary.
    (
        position,
        stream_id,
        version,
        topic,
        state,
        event_id,
        recorded_at,
        actor,
        correlation_id,
        causation_id,
    ) = record
    try:
        stored = f'"state":{quoted(state.decode())}'
    except UnicodeDecodeError:
        stored = f'"state_base64":"{b64encode(state).decode()}"'
    line = (
        f'{{"position":{position:d},"stream_id":"{_dashed(stream_id)}","stream_version":{version:d},'
        f'"topic":{quoted(topic)},"recorded_at":"{rfc3339(from_microseconds(recorded_at))}","event_id":"{_dashed(event_id)}",'
        f'"actor":{"null" if actor is None else quoted(actor)},'
        f'"correlation_id":{_dashed_or_null(correlation_id)},'
        f'"causation_id":{_dashed_or_null(causation_id)},{stored}}}\n'
    )
    if len(line) > LONGEST_LINE:
        raise ValueError(f"it takes {len(line):,} bytes, and at most {LONGEST_LINE:,} are allowed")
    return line


def key_line(record: KeyRecord) -> str:
    """Return the line of an idempotency key."""
    return _line(
        {
            "key": record.key,
            "fingerprint": record.fingerprint,
            "deployment_id": _dashed(record.deployment_id),
            "version": record.version,
            "recorded_at": rfc3339(from_microseconds(record.recorded_at)),
        }
    )


def trailer_line(trailer: Trailer) -> str:
    """Return the last line."""
    root = b64encode(trailer.root).decode()
    return _line({"events": trailer.events, "keys": trailer.keys, "root": root})


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _dashed(id_: bytes) -> str:
    digits = id_.hex()
    if len(digits) != 32:
        raise ValueError(f"an id has {len(id_)} bytes")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _dashed_or_null(id_: bytes | None) -> str:
    return "null" if id_ is None else f'"{_dashed(id_)}"'


# Reading --------------------------------------------------------------------------------------------


class NumberedLines:
    """The lines of a compressed file, one after the other; none, however long, fills the memory.

    Attributes:
        number: which line was returned last, counted from 1.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._file = gzip.GzipFile(fileobj=file)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            line = self._file.readline(LONGEST_LINE + 1)
        except EOFError as error:
            raise self._bad("the file ends here, and is not complete") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            if not self._file.tell():
                raise self._bad(
                    "it is not an export of an event log: it is not compressed with gzip"
                ) from error
            raise self._bad(f"the compressed data is damaged ({error})") from error
        if not line:
            raise StopIteration
        if not line.endswith(b"\n"):
            if len(line) > LONGEST_LINE:
                raise self._bad(f"a line is longer than {LONGEST_LINE:,} bytes")
            raise self._bad("the file ends here, and is not complete")
        self.number += 1
        return line[:-1]

    def _bad(self, problem: str) -> BadFileError:
        return BadFileError(f"after line {self.number} {problem}" if self.number else problem)


def header_of(line: bytes) -> Header:
    """Return what the first line says.

    Raises:
        BadLineError: if it is none, or that of a newer format; so do the other functions.
    """
    try:
        fields = _object(line)
    except BadLineError:
        fields = {}
    if fields.get("format") != FORMAT:
        raise BadLineError("it is not an export of an event log")
    version = _integer(fields, "version", least=1)
    if version > FORMAT_VERSION:
        raise BadLineError(f"it has format version {version}, and this version of deployledger supports 1")
    _check_names(fields, _HEADER)
    return Header(UUID(bytes=_id(fields, "export_id")), _integer(fields, "until", least=0))


def event_of(line: bytes, position: int) -> EventRecord:
    """Return the event of a line, which must be the one at a position."""
    fields = _object(line)
    names = fields.keys()
    if names != _EVENT and names != _UNDECODED_EVENT:
        _check_names(fields, _EVENT)
    if _integer(fields, "position", least=1) != position:
        raise BadLineError(f"it is the event at position {fields['position']}, and {position} comes next")
    topic, actor = _text(fields, "topic"), None if fields["actor"] is None else _text(fields, "actor")
    return EventRecord(
        position,
        _id(fields, "stream_id"),
        _integer(fields, "stream_version", least=1),
        topic,
        _state(fields),
        _id(fields, "event_id"),
        _moment(fields, "recorded_at"),
        actor,
        None if fields["correlation_id"] is None else _id(fields, "correlation_id"),
        None if fields["causation_id"] is None else _id(fields, "causation_id"),
    )


def key_or_trailer_of(line: bytes) -> KeyRecord | Trailer:
    """Return the idempotency key of a line, or the trailer."""
    fields = _object(line)
    if "root" not in fields:
        _check_names(fields, _KEY)
        return KeyRecord(
            _text(fields, "key"),
            _text(fields, "fingerprint"),
            _id(fields, "deployment_id"),
            _integer(fields, "version", least=0),
            _moment(fields, "recorded_at"),
        )
    _check_names(fields, _TRAILER)
    root = _base64(fields, "root")
    if len(root) != _HASH_BYTES:
        raise BadLineError(f"its root has {len(root)} bytes")
    return Trailer(_integer(fields, "events", least=0), _integer(fields, "keys", least=0), root)


def _object(line: bytes) -> dict[str, Any]:
    try:
        text = str(line, "utf-8")
        fields, end = _decode(text)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"it is not JSON ({error})") from error
    if end != len(text):
        raise BadLineError("it is not JSON (something follows it)")
    if not isinstance(fields, dict):
        raise BadLineError("it is not a JSON object")
    return fields


def _check_names(fields: dict[str, Any], expected: frozenset[str]) -> None:
    for what, names in (("no", expected - fields.keys()), ("an unknown", fields.keys() - expected)):
        if names:
            raise BadLineError(f"it has {what} {min(names)!r}")


def _integer(fields: dict[str, Any], name: str, *, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= _LARGEST_INTEGER:
        raise _impossible(name, value)
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    try:
        if type(value) is str and "\0" not in value and len(value.encode()) <= _LONGEST_NAME:
            return value
    except UnicodeEncodeError:
        pass
    raise _impossible(name, value)


def _id(fields: dict[str, Any], name: str) -> bytes:
    value = fields[name]
    try:
        if len(value) == 36 and len(id_ := bytes.fromhex(value.replace("-", ""))) == 16:
            return id_
    except (ValueError, TypeError, AttributeError):
        pass
    raise _impossible(name, value)


def _moment(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    try:
        if value.endswith("Z"):
            return to_microseconds(datetime.fromisoformat(value))
    except (ValueError, TypeError, AttributeError):
        pass
    raise _impossible(name, value)


def _state(fields: dict[str, Any]) -> bytes:
    if "state" not in fields:
        return _base64(fields, "state_base64")
    value = fields["state"]
    try:
        if type(value) is str:
            return value.encode()
    except UnicodeEncodeError:
        pass
    raise _impossible("state", value)


def _base64(fields: dict[str, Any], name: str) -> bytes:
    value = fields[name]
    try:
        return b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise _impossible(name, value) from None


def _impossible(name: str, value: object) -> BadLineError:
    shown = repr(value)
    return BadLineError(f"its {name!r} cannot be {shown if len(shown) <= 60 else shown[:60] + '…'}")
