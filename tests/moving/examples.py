"""Logs with everything that a log may have, and what is in a log."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from eventsourcing.persistence import StoredEvent

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.domain import events
from deployledger.domain.event_log import CommandKey, KeyRecord
from deployledger.domain.event_records import EventRecord, undamaged
from deployledger.domain.events import Event
from tests.domain.given import SERVING, happened, history, requested

ALL = 1 << 40


def serving(number: int) -> list[Event]:
    """Return the events of so many deployments."""
    return [event for _ in range(number) for event in history(*SERVING, stream=uuid4())]


def fill(log: DatabaseEventLog, deployments: int = 30) -> None:
    """Add deployments, each request with an idempotency key, and what only few logs have."""
    for number in range(deployments):
        past = history(*SERVING, stream=uuid4())
        log.append(past[:1], CommandKey(f"key {number} ü", "fingerprint", past[0].originator_id, 1))
        log.append(past[1:])
    awkward = requested(name="nul", tags={"a\0b": "\0", "c": '"\\u0000\\', "d": "\u2028 \U0001f337"})
    past = history(awkward, happened(events.Cancelled), stream=uuid4())
    log.append([past[0].model_copy(update={"actor": 'Jürgen "ü" \\ \U0001f337'}), past[1]])
    # Rows as an application of the library stores them: no metadata; nor need they be JSON, or text.
    log._recorder.insert_events(
        [
            StoredEvent(uuid4(), 1, "library.event", b"{}"),
            StoredEvent(uuid4(), 1, "deployment.requested", b"\xff\xfe\0 no text"),
            StoredEvent(uuid4(), 1, "deployment.requested", b"no JSON"),
            StoredEvent(uuid4(), 1, "deployment.requested", b""),
        ]
    )


def records(log: DatabaseEventLog) -> list[EventRecord]:
    """Return every event."""
    return [record for page in undamaged(log.records(after=0, until=ALL, metadata=True)) for record in page]


def keys(log: DatabaseEventLog) -> list[KeyRecord]:
    """Return every idempotency key."""
    return [keyed.key for page in log.keys(until=ALL) for keyed in page]


def lines(file: Path) -> list[bytes]:
    """Return the lines of an export."""
    return gzip.decompress(file.read_bytes()).splitlines()


def write(file: Path, lines: Sequence[bytes]) -> Path:
    """Write lines as an export has them."""
    file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return file


def changed(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a line whose fields were changed."""
    fields = json.loads(line)
    change(fields)
    return json.dumps(fields).encode()
