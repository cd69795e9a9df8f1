"""A file that is not a complete export of a log is refused, says where, and leaves nothing behind."""

import gzip
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.export import export_log, exporting, import_log
from deployledger.adapters.export.lines import (
    Header,
    Trailer,
    event_line,
    event_of,
    header_line,
    trailer_line,
)
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.merkle import leaf_hash, root_of
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from tests.contracts.version_1 import Database
from tests.moving.conftest import NewUrl, OpenLog
from tests.moving.examples import changed, fill, keys, lines, records, write

Lines = list[bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in several gzip members: header, 14 events, 2 keys, trailer."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporting, "_LINES_PER_MEMBER", 4)
        log = open_event_log(f"sqlite:///{folder / 'log.db'}")
        fill(log, 2)
        export_log(log, folder / "log.gz")
        assert log.position() == 14
        log.close()
    return folder / "log.gz"


def refused(log: DatabaseEventLog, url: str, file: Path) -> str:
    """Import; return what is said about the file, once it is sure that nothing is there of it."""
    with pytest.raises(ConfigurationError) as refusal:
        import_log(log, file)
    assert refusal.value.status_code == 400
    assert str(file) in str(refusal.value)
    assert (records(log), keys(log)) == ([], [])
    return str(refusal.value)


@pytest.fixture
def target(new_url: NewUrl) -> str:
    """A database in which nothing but the file decides: one kind is enough."""
    return new_url("sqlite")


def replaced(number: int, **fields: Any) -> Callable[[Lines], Lines]:
    """Return what changes fields of a line, counted from 1."""
    return lambda found: [
        changed(line, lambda it: it.update(fields)) if at == number else line
        for at, line in enumerate(found, start=1)
    ]


def without(number: int, name: str) -> Callable[[Lines], Lines]:
    """Return what removes a field of a line."""
    return lambda found: [
        changed(line, lambda it: it.pop(name)) if at == number else line
        for at, line in enumerate(found, start=1)
    ]


def trailer(**fields: Any) -> Callable[[Lines], Lines]:
    """Return what changes fields of the last line."""
    return replaced(18, **fields)


BAD_LINES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "no header": (lambda it: it[1:], "it is not an export of an event log"),
    "another format": (replaced(1, format="cloudevents"), "it is not an export of an event log"),
    "newer format": (replaced(1, version=2), "it has format version 2, and this version of deployledger"),
    "no export id": (without(1, "export_id"), "it has no 'export_id'"),
    "until is negative": (replaced(1, until=-1), "its 'until' cannot be -1"),
    "until is more": (replaced(1, until=15), "line 16 is wrong: it has no 'actor'"),
    "until is less": (replaced(1, until=13), "line 15 is wrong: it has no 'deployment_id'"),
    "gap": (lambda it: it[:3] + it[4:], "line 4 is wrong: it is the event at position 4, and 3 comes next"),
    "twice": (lambda it: it[:4] + it[3:], "line 5 is wrong: it is the event at position 3, and 4 comes next"),
    "swapped": (lambda it: [*it[:3], it[4], it[3], *it[5:]], "line 4 is wrong: it is the event at"),
    "no JSON": (lambda it: [*it[:3], b"position 3", *it[4:]], "line 4 is wrong: it is not JSON"),
    "no UTF-8": (lambda it: [*it[:3], b'"\xff"', *it[4:]], "line 4 is wrong: it is not JSON"),
    "no object": (lambda it: [*it[:3], b"[3]", *it[4:]], "line 4 is wrong: it is not a JSON object"),
    "empty line": (lambda it: [*it[:3], b"", *it[4:]], "line 4 is wrong: it is not JSON"),
    "deep": (lambda it: [*it[:3], b"[" * 100_000, *it[4:]], "line 4 is wrong: it is not JSON"),
    "no state": (without(4, "state"), "line 4 is wrong: it has no 'state'"),
    "two states": (replaced(4, state_base64=""), "line 4 is wrong: it has an unknown 'state_base64'"),
    "unknown field": (replaced(4, colour="red"), "line 4 is wrong: it has an unknown 'colour'"),
    "position is true": (replaced(2, position=True), "line 2 is wrong: its 'position' cannot be True"),
    "position is a float": (replaced(2, position=1.0), "line 2 is wrong: its 'position' cannot be 1.0"),
    "stream id": (replaced(4, stream_id="iris"), "line 4 is wrong: its 'stream_id' cannot be 'iris'"),
    "stream id of spaces": (replaced(4, stream_id=" " * 36), "line 4 is wrong: its 'stream_id' cannot be"),
    "stream id is null": (replaced(4, stream_id=None), "line 4 is wrong: its 'stream_id' cannot be None"),
    "version 0": (replaced(4, stream_version=0), "line 4 is wrong: its 'stream_version' cannot be 0"),
    "version is huge": (replaced(4, stream_version=1 << 63), "line 4 is wrong: its 'stream_version'"),
    "topic": (replaced(4, topic=7), "line 4 is wrong: its 'topic' cannot be 7"),
    "topic is long": (replaced(4, topic="x" * 65_536), r"line 4 is wrong: its 'topic' cannot be 'xxx"),
    "actor with NUL": (replaced(4, actor="eve\0"), "line 4 is wrong: its 'actor' cannot be"),
    "actor of half a character": (replaced(4, actor="\ud800"), "line 4 is wrong: its 'actor' cannot be"),
    "state is an object": (replaced(4, state={}), "line 4 is wrong: its 'state' cannot be {}"),
    "state of half a character": (replaced(4, state="\udfff"), "line 4 is wrong: its 'state' cannot be"),
    "time without zone": (replaced(4, recorded_at="2026-01-01T00:00:00"), "its 'recorded_at' cannot be"),
    "time is a number": (replaced(4, recorded_at=1), "line 4 is wrong: its 'recorded_at' cannot be 1"),
    "no day": (replaced(4, recorded_at="2026-02-30T00:00:00Z"), "its 'recorded_at' cannot be"),
    "time falls": (
        replaced(5, recorded_at="2001-01-01T00:00:00.000000Z"),
        "line 5 is wrong: the event was recorded before the preceding one",
    ),
    "state changed": (replaced(4, state="{}"), "the root of its events is "),
    "actor changed": (replaced(4, actor="eve"), "the root of its events is "),
    "time changed": (replaced(15, recorded_at="2999-01-01T00:00:00.000000Z"), "the root of its events is "),
    "event id changed": (replaced(4, event_id="0" * 36), "line 4 is wrong: its 'event_id' cannot be"),
    "stream version skips": (replaced(5, stream_version=9), "the event at position 4 does not have the next"),
    "stream version twice": (
        lambda it: [*it[:3], changed(it[3], lambda f: f.update(stream_version=1)), *it[4:]],
        "the version of the event at position 3 occurs twice",
    ),
    "root among the keys": (replaced(17, root=""), "line 17 is wrong: it has "),
    "root of zeros": (trailer(root="A" * 43 + "="), "the root"),
    "short root": (trailer(root="AAAA"), "its root has 3 bytes"),
    "no base64": (trailer(root="?"), "its 'root' cannot be"),
    "fewer events": (
        trailer(events=13),
        "it counts 13 events and 2 idempotency keys, but the file has 14 and 2",
    ),
    "more keys": (trailer(keys=3), "but the file has 14 and 2"),
    "a key less": (lambda it: [*it[:-2], it[-1]], "but the file has 14 and 1"),
    "a key twice": (lambda it: [*it[:-1], it[-2], it[-1]], "the idempotency key 'key 1 ü' occurs twice"),
    "key without version": (without(16, "version"), "line 16 is wrong: it has no 'version'"),
    "no trailer": (lambda it: it[:-1], "it ends after 2 idempotency keys, without its last line"),
    "no keys": (lambda it: it[:-3], "it ends after 0 idempotency keys"),
    "half of the events": (lambda it: it[:8], "it ends after event 7 of 14"),
    "header alone": (lambda it: it[:1], "it ends after event 0 of 14"),
    "more behind the end": (lambda it: [*it, it[-1]], "line 19 is wrong: it follows the"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_line_that_is_wrong_is_named(
    case: str, good: Path, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    change, says = BAD_LINES[case]
    message = refused(open_log(target), target, write(tmp_path / "log.gz", change(lines(good))))
    assert says in message


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    "case", ["stream version twice", "stream version skips", "root of zeros", "a key twice", "gap"]
)
def test_both_databases_refuse(
    case: str, kind: str, good: Path, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    url = new_url(kind)
    log = open_log(url)
    refused(log, url, write(tmp_path / "log.gz", BAD_LINES[case][0](lines(good))))
    import_log(log, good)
    assert log.position() == 14


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_root_that_fits_does_not_make_wrong_versions_right(
    kind: str, good: Path, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    header, *rest = lines(good)
    events = [event_of(line, position) for position, line in enumerate(rest[:14], start=1)]
    events[3] = events[3]._replace(stream_version=9)
    root = root_of([leaf_hash(encode_leaf(*it)) for it in events])
    made = [
        header,
        *(event_line(it).encode() for it in events),
        *rest[14:-1],
        trailer_line(Trailer(14, 2, root)).encode(),
    ]
    url = new_url(kind)
    message = refused(open_log(url), url, write(tmp_path / "log.gz", [it.strip() for it in made]))
    assert "line 5 is wrong: the event at position 4 does not have the next version of its stream" in message


# The file as a whole --------------------------------------------------------------------------------


def test_a_file_that_ends_early_is_refused_wherever_it_ends(
    good: Path, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    whole, file = good.read_bytes(), tmp_path / "log.gz"
    log = open_log(target)
    for size in range(0, len(whole), 29):
        file.write_bytes(whole[:size])
        message = refused(log, target, file)
        # Of a file that ends after the first byte of a compressed part, gzip says that it is no such part.
        assert any(words in message for words in ("not complete", "not compressed", r"(b'\x1f')"))
    import_log(log, good)


def test_a_file_that_is_damaged_is_refused_wherever_it_is(
    good: Path, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    whole, file = good.read_bytes(), tmp_path / "log.gz"
    log = open_log(target)
    for at in range(0, len(whole), 41):
        damaged = whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]
        if not means_the_same(damaged, whole):
            file.write_bytes(damaged)
            refused(log, target, file)


def means_the_same(damaged: bytes, whole: bytes) -> bool:
    """Return whether the damage is where nothing depends on it: a time in a header, bits that only fill."""
    try:
        return gzip.decompress(damaged) == gzip.decompress(whole)
    except (OSError, EOFError, zlib.error):
        return False


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not complete"),
        (
            b"PK\3\4 another kind of archive",
            "imported: it is not an export of an event log: it is not compressed with gzip",
        ),
        (
            b'{"format": "deployledger-log"}\n',
            "it is not compressed with gzip. Nothing was imported. Name a file",
        ),
        (gzip.compress(b""), "not complete: it is empty"),
        (gzip.compress(b"one two three\n"), "not an export of an event log"),
        (gzip.compress(b'{"format": "deployledger-log", "version": "1"}\n'), "its 'version' cannot be '1'"),
        (gzip.compress(bytes(100)), "the file ends here"),
    ],
    ids=["empty", "zip", "not compressed", "nothing", "text", "version", "zeros"],
)
def test_what_is_no_export_is_refused(
    content: bytes, says: str, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    (tmp_path / "log.gz").write_bytes(content)
    message = refused(open_log(target), target, tmp_path / "log.gz")
    assert says in message


def test_garbage_behind_the_end_is_refused(
    good: Path, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    (tmp_path / "log.gz").write_bytes(good.read_bytes() + b"garbage")
    assert "damaged" in refused(open_log(target), target, tmp_path / "log.gz")


@pytest.mark.parametrize("name", ["none.gz", "."])
def test_what_cannot_be_read_is_refused(name: str, target: str, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(target)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        import_log(log, tmp_path / name)


def test_a_file_that_unpacks_to_a_huge_line_does_not_fill_the_memory(
    target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    compress = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = compress.compress(header_line(Header(uuid4(), 1), datetime.now(UTC), "x").encode() + b'{"a": "')
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(300))
    (tmp_path / "log.gz").write_bytes(begin + bomb + compress.flush())
    message = refused(open_log(target), target, tmp_path / "log.gz")
    assert "longer than 67,108,864 bytes" in message


# The log --------------------------------------------------------------------------------------------


def test_a_log_that_has_a_gap_is_not_exported(new_url: NewUrl, open_log: OpenLog, tmp_path: Path) -> None:
    url = new_url("sqlite")
    log = open_log(url)
    fill(log, 2)
    database = Database(url)
    database.execute("DROP TRIGGER events_delete")
    database.execute("DELETE FROM events WHERE position = 7")
    with pytest.raises(EventLogError, match="no event at position 7"):
        export_log(log, tmp_path / "log.gz")
    assert not (tmp_path / "log.gz").exists()


def test_a_log_that_has_impossible_values_is_not_exported(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    url = new_url("sqlite")
    log = open_log(url)
    fill(log, 2)
    database = Database(url)
    database.execute("DROP TRIGGER events_update")
    database.execute("UPDATE events SET state = 7 WHERE position = 7")
    with pytest.raises(EventLogError, match=r"Event 7 .*damaged: its state is not stored as bytes"):
        export_log(log, tmp_path / "log.gz")


@pytest.mark.parametrize("damage", ["deployment_id = 'iris'", "recorded_at = 'noon'", "version = x'00'"])
def test_a_log_that_has_an_impossible_key_is_not_exported(
    damage: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    url = new_url("sqlite")
    log = open_log(url)
    fill(log, 2)
    Database(url).execute(f"UPDATE idempotency_keys SET {damage} WHERE key = 'key 1 ü'")
    with pytest.raises(EventLogError, match="The idempotency key 'key 1 ü' is damaged"):
        export_log(log, tmp_path / "log.gz")


def test_where_nothing_can_be_written_nothing_is_exported(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(new_url("sqlite"))
    with pytest.raises(ConfigurationError, match="cannot be written: No such file or directory"):
        export_log(log, tmp_path / "none" / "log.gz")
    with pytest.raises(ConfigurationError, match="is a folder"):
        export_log(log, tmp_path, replace=True)
