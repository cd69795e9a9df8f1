"""What the event logs of all databases share: everything but the connection, the schema and the locks."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from uuid import UUID

from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    MapperDeserialisationError,
    PersistenceError,
)

from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain.event_log import RecordedEvent
from deployledger.domain.events import Event
from deployledger.domain.exceptions import ConcurrencyError, EventLogError
from deployledger.domain.redaction import without_credentials

SCHEMA_VERSION = 1
"""The version of the database schema that this version of the software reads and writes."""


@dataclass(frozen=True)
class SchemaState:
    """The schema that a database has (0: none yet), and the one that this software needs."""

    found: int
    needed: int = SCHEMA_VERSION


class RecorderEventLog(ABC):
    """An event log on a recorder of `eventsourcing`.

    The database is opened, and its schema checked, by the first method that is called.
    """

    def __init__(self, described_as: str) -> None:
        self._described_as = described_as
        self._mapper = EventMapper()
        self._opened: ApplicationRecorder | None = None
        self._opening = Lock()

    @abstractmethod
    def _connect(self) -> ApplicationRecorder:
        """Open the database and return a recorder on it; create no tables."""

    @abstractmethod
    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""

    @abstractmethod
    def _create_schema(self, recorder: ApplicationRecorder) -> None:
        """Create the tables, and note the version of the schema."""

    @abstractmethod
    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream; see the port."""

    @property
    @abstractmethod
    def _creates_schema(self) -> bool:
        """Whether the schema is created on first use."""

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except MapperDeserialisationError as error:
            raise EventLogError(
                str(error), hint="Upgrade deployledger, or restore the database from a backup."
            ) from error
        except (PersistenceError, sqlite3.Error) as error:
            raise EventLogError(
                f"The event log in {self._described_as} cannot be used: "
                f"{without_credentials(str(error)).strip()}.",
                hint="Check that the database is there, reachable and writable, and try again.",
            ) from error

    @property
    def _recorder(self) -> ApplicationRecorder:
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    recorder = self._connect()
                    self._check_schema(recorder)
                    self._opened = recorder
        return self._opened

    def _check_schema(self, recorder: ApplicationRecorder) -> None:
        state = self.schema_state()
        if state.found > state.needed:
            raise EventLogError(
                f"The event log in {self._described_as} has schema version {state.found}; "
                f"this version of deployledger knows version {state.needed}.",
                hint="Upgrade deployledger.",
            )
        if state.found == 0:
            if not self._creates_schema:
                raise EventLogError(
                    f"The database {self._described_as} has no deployledger schema.",
                    hint="Run `deployledger db init`, or set DEPLOYLEDGER_CREATE_SCHEMA=true.",
                )
            self._create_schema(recorder)

    def create_schema(self) -> str:
        """Create the schema if the database has none, and return what database that is."""
        with self._translated_errors(), self._opening:
            recorder = self._opened or self._connect()
            if self.schema_state().found == 0:
                self._create_schema(recorder)
            else:
                self._check_schema(recorder)
            self._opened = recorder
        return self._described_as

    def append(self, events: Sequence[Event]) -> None:
        """Store all of the events or none of them; see the port."""
        stored = [self._mapper.to_stored_event(event) for event in events]
        with self._translated_errors():
            try:
                self._recorder.insert_events(stored)
            except IntegrityError as error:
                raise ConcurrencyError(
                    f"Stream {stored[0].originator_id} was changed by somebody else at the same time.",
                    hint="Read it again, and decide again.",
                ) from error

    def stream(self, stream_id: UUID) -> list[Event]:
        """Return the events of one stream in order."""
        with self._translated_errors():
            stored = self._recorder.select_events(stream_id)
            return [self._mapper.to_domain_event(event) for event in stored]

    def version(self, stream_id: UUID) -> int:
        """Return the version of the stream's last event; 0 if there is no such stream."""
        with self._translated_errors():
            last = self._recorder.select_events(stream_id, desc=True, limit=1)
            return last[0].originator_version if last else 0

    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        """Return the next events behind a position, in the order of the log."""
        with self._translated_errors():
            notifications = self._recorder.select_notifications(after, limit, inclusive_of_start=False)
            return [
                RecordedEvent(notification.id, self._mapper.to_domain_event(notification))
                for notification in notifications
            ]

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""
