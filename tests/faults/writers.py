"""Commands without the domain around them, and the real writers of both databases."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from uuid import UUID, uuid4

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.adapters.event_log.commands import Command, EventRow, Outcome
from deployledger.adapters.event_log.group_commit import BatchWriter
from deployledger.adapters.event_log.postgres import schema
from deployledger.adapters.event_log.postgres.writer import PostgresBatchWriter
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.event_log.sqlite.writer import SQLiteBatchWriter
from deployledger.adapters.postgres import PostgresDatabase
from deployledger.domain.event_log import CommandKey
from deployledger.projections.patience import Patience


def command(*places: tuple[UUID, int], key: str | None = None) -> Command:
    """Return a command that makes an event at each of these versions of streams."""
    rows = [
        EventRow(stream, version, "topic", b"{}", uuid4(), "ann", None, None) for stream, version in places
    ]
    return Command(rows, CommandKey(key, "fingerprint", *places[-1]) if key is not None else None)


def created(url: str) -> str:
    """Create the schema of a database, and return its URL."""
    log = open_event_log(url)
    log.create_schema()
    log.close()
    return url


def writer(url: str) -> BatchWriter:
    """Return the writer for a database."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        return SQLiteBatchWriter(
            lambda: sqlite3.connect(path, isolation_level=None, check_same_thread=False),
            EVENTS_TABLE,
            KEYS_TABLE,
            lock=nullcontext(),
            watch=ClockWatch(path),
        )
    database = PostgresDatabase(url, 1, Patience(20))
    return PostgresBatchWriter(database, database.session, schema.EVENTS, schema.KEYS, watch=ClockWatch(url))


class HeldWriter(BatchWriter):
    """A real writer that can be held back, so that a test decides what waits at the same time.

    Attributes:
        batches: how many commands each transaction was asked to store.
        is_writing: set while a batch is held.
    """

    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer
        self._go = threading.Event()
        self._go.set()
        self.is_writing = threading.Event()
        self.batches: list[int] = []

    def hold(self) -> None:
        """Let no further batch begin."""
        self.is_writing.clear()
        self._go.clear()

    def release(self) -> None:
        """Let batches go on."""
        self._go.set()

    def write(self, commands: Sequence[Command]) -> list[Outcome]:
        self.is_writing.set()
        assert self._go.wait(60)
        self.batches.append(len(commands))
        return self._writer.write(commands)

    def write_checked(self, commands: Sequence[Command]) -> list[Outcome]:
        return self._writer.write_checked(commands)

    def close(self) -> None:
        self._writer.close()
