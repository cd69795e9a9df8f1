"""What is in a log, read past the software under test, and whether it is sound."""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from deployledger.domain.events import DeploymentEvent
from tests.domain.given import SERVING, history

_COLUMNS = "position, originator_id, originator_version, event_id, recorded_at"


class Row(NamedTuple):
    """An event as the database has it."""

    position: int
    stream: UUID
    version: int
    event_id: UUID
    recorded_at: Any


def new_command(size: int) -> list[DeploymentEvent]:
    """Return the events of a command on a new stream, whose id says how many they are."""
    return history(*SERVING[:size], stream=UUID(bytes=os.urandom(15) + bytes([size])))


def rows(url: str) -> list[Row]:
    """Return everything in the log."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            found = connection.execute(f"SELECT {_COLUMNS} FROM events ORDER BY position").fetchall()
        return [Row(it[0], UUID(it[1]), it[2], UUID(it[3]), it[4]) for it in found]
    with psycopg.connect(url, application_name="audit") as session:
        query = f"SELECT {_COLUMNS} FROM deployledger.events ORDER BY position"
        return [Row(*it) for it in session.execute(query.encode())]


def assert_sound(log: list[Row]) -> None:
    """Check what holds for every log: positions without gaps, time that never falls, whole streams."""
    assert [row.position for row in log] == list(range(1, len(log) + 1))
    assert all(one.recorded_at <= other.recorded_at for one, other in pairwise(log))
    last: dict[UUID, int] = {}
    for row in log:
        assert row.version == last.get(row.stream, 0) + 1, row
        last[row.stream] = row.version


def assert_whole(log: list[Row], acknowledged: Iterable[UUID]) -> None:
    """Check that every acknowledged command of `new_command` is there once, and no command in part."""
    assert_sound(log)
    positions: dict[UUID, list[int]] = defaultdict(list)
    for row in log:
        positions[row.stream].append(row.position)
    for stream, of_stream in positions.items():
        assert of_stream == list(range(of_stream[0], of_stream[0] + stream.bytes[-1])), stream
    acknowledged = list(acknowledged)
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= positions.keys()


def acknowledged_in(*files: Path) -> list[UUID]:
    """Return the streams of the commands whose success was written to the files, 16 bytes each."""
    return [
        UUID(bytes=content[start : start + 16])
        for content in (file.read_bytes() for file in files if file.exists())
        for start in range(0, len(content) // 16 * 16, 16)
    ]
