"""Opens the database of an event log by its first use, and makes its errors ours."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from threading import Condition, Lock, local
from typing import Concatenate, ParamSpec, TypeVar

from eventsourcing.persistence import ApplicationRecorder, PersistenceError

from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.domain.event_log import SchemaState
from deployledger.domain.exceptions import EventLogError
from deployledger.domain.findings import Finding
from deployledger.domain.forks import HINT as FORK_HINT
from deployledger.domain.forks import OpeningProcess, opened_before
from deployledger.projections.patience import Patience

SCHEMA_VERSION = 2
"""The version of the database schema that this version of the software reads and writes."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Log = TypeVar("_Log", bound="OpenedLog")


def patient(
    method: Callable[Concatenate[_Log, _P], _T],
) -> Callable[Concatenate[_Log, _P], _T]:
    """Make a method that reads, or may be repeated, wait for an unavailable database."""

    @wraps(method)
    def call(log: _Log, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return log.patience.call(lambda: method(log, *args, **kwargs))

    return call


class OpenedLog(ABC):
    """The database of an event log; it is opened, and its schema checked, by the first use.

    Args:
        url: the database's URL, as it was given.
        described_as: the database, for messages; without credentials.
        patience: how long commands and queries wait for an unavailable database.
    """

    def __init__(self, url: str, described_as: str, *, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self._described_as = described_as
        self._recorder_or_none: ApplicationRecorder | None = None
        self._opening = Lock()
        self._sharing = Condition()
        self._users = 1
        self._uses = 0
        self._uses_of_thread = local()
        self._process = OpeningProcess()
        self._clock = ClockWatch(described_as)

    @property
    def described_as(self) -> str:
        """The database, for messages; without credentials."""
        return self._described_as

    # What each database does in its own way ---------------------------------------------------------

    @abstractmethod
    def _unusable(self, error: BaseException) -> EventLogError:
        """Return what to tell the user about an error of the database's driver."""

    @abstractmethod
    def _connect(self) -> ApplicationRecorder:
        """Open the database and return a recorder on it; create no tables."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close every connection."""

    @abstractmethod
    def _found_schema(self) -> int:
        """Return the version of the schema that the database has; 0 if none."""

    @abstractmethod
    def _create_schema(self) -> None:
        """Create the schema, in one transaction, unless another process did meanwhile."""

    @abstractmethod
    def _upgrade_schema(self) -> None:
        """Bring the schema from the version before to this one, in one transaction."""

    @abstractmethod
    def _restore_triggers(self) -> None:
        """Create what refuses changes to events again, if it is missing or was changed."""

    @property
    @abstractmethod
    def _creates_schema(self) -> bool:
        """Whether the schema is created on first use."""

    @abstractmethod
    def _findings(self, *, whole: bool) -> Iterator[Finding]:
        """Yield what checks of the database found."""

    @abstractmethod
    def _clocks(self) -> tuple[int, int | None, int | None]:
        """Return the last position, when it was recorded, and what the server's clock says.

        Times are in microseconds since 1970. None: there is no event, or its time is none; and there is no
        server, so that this machine's clock counts.
        """

    # Opening ----------------------------------------------------------------------------------------

    @patient
    def _open(self) -> None:
        with self._use():
            _ = self._recorder

    @property
    def _recorder(self) -> ApplicationRecorder:
        """The library's recorder of the same table, on the open database."""
        if self._recorder_or_none is None:
            with self._opening:
                if self._recorder_or_none is None:
                    state = self.schema_state()
                    if state.found == 0 and self._creates_schema:
                        self._create_schema()
                    else:
                        self._check(state)
                    self._recorder_or_none = self._connect()
                    with suppress(PersistenceError, EventLogError):  # reading the damaged row reports it
                        _, last, server = self._clocks()
                        self._clock.opened(last, server)
        return self._recorder_or_none

    @patient
    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        with self._use():
            return SchemaState(self._described_as, self._found_schema(), SCHEMA_VERSION)

    @patient
    def create_schema(self) -> SchemaState:
        """Create what the database needs, if it has nothing of ours; see the port."""
        with self._use(), self._opening:
            state = self.schema_state()
            if state.found == 0:
                self._create_schema()
            else:
                self._check(state)
                self._restore_triggers()
        return self.schema_state()

    @patient
    def upgrade_schema(self) -> SchemaState:
        """Upgrade an older schema; every event is kept."""
        with self._use(), self._opening:
            state = self.schema_state()
            if 0 < state.found < state.needed:
                self._upgrade_schema()
            else:
                self._check(state)
        return self.schema_state()

    @property
    def _how_to_create(self) -> str:
        """What to do about a database without our schema."""
        return "Run `deployledger db init`, or set DEPLOYLEDGER_CREATE_SCHEMA=true."

    def _check(self, state: SchemaState) -> None:
        if state.found > state.needed:
            raise EventLogError(
                f"The event log in {state.database} has schema version {state.found}; "
                f"this version of deployledger knows version {state.needed}.",
                hint="Upgrade deployledger.",
            )
        if state.found == 0:
            raise EventLogError(
                f"The database {state.database} has no deployledger schema.",
                hint=self._how_to_create,
            )
        if state.found < state.needed:
            raise EventLogError(
                f"The event log in {state.database} has schema version {state.found}; "
                f"this version of deployledger needs version {state.needed}.",
                hint="Make a backup, stop what uses the database, and run `deployledger db upgrade`.",
            )

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Enter while the database is used: errors become ours, and closing waits until it is not used."""
        self._check_process()
        depth = getattr(self._uses_of_thread, "depth", 0)
        if depth == 0:
            self._begin_use()
        self._uses_of_thread.depth = depth + 1
        try:
            with self._translated_errors():
                if depth == 0:
                    self._check_usable()
                yield
        finally:
            self._uses_of_thread.depth = depth
            if depth == 0:
                with self._sharing:
                    self._uses -= 1
                    self._sharing.notify_all()

    def _check_process(self) -> None:
        if self._process.is_another:
            raise EventLogError(opened_before("The event log"), hint=FORK_HINT)

    def _begin_use(self) -> None:
        with self._sharing:
            if not self._users:
                raise EventLogError("The event log is closed.", hint="Open it again.")
            self._uses += 1

    def _check_usable(self) -> None:
        """Raise what keeps an open database from being used, if that can be told without asking it."""
        return

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except PersistenceError as error:
            raise self._unusable(error.__cause__ or error) from error

    @patient
    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the database itself; see the port."""
        with self._use():
            with suppress(EventLogError):  # opening reads events, which may be what is damaged
                self._open()
            return list(self._findings(whole=whole))
