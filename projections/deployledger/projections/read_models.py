"""Read models: rows that are always current when they are read, kept so by whoever reads or follows."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid5

from deployledger.domain.event_log import NOTHING_READ, EventLog, Mark, RawEvent, mark_of
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    LogDivergedError,
    ReadModelError,
    ResourceNotFoundError,
)
from deployledger.domain.forks import HINT, OpeningProcess, opened_before
from deployledger.domain.logs import logger
from deployledger.projections import rebuilding
from deployledger.projections.folding import LARGEST_ROW_BYTES, Folding, decode_all, read_by
from deployledger.projections.garbage import rare_collections
from deployledger.projections.patience import Patience, pauses
from deployledger.projections.projection import Consistency, Projection
from deployledger.projections.rebuilding import fill_here
from deployledger.projections.reports import COUNTS, Progress, Rebuilt, Task, Verified
from deployledger.projections.store import (
    Applying,
    Found,
    MissingReadModelError,
    ParkedEvent,
    ReadModelStore,
    Rows,
    Selected,
    Selection,
    UnreliableReadModelsError,
    check_selection,
)

LOGGER = logger("read_models")

_NAMESPACE = UUID("a3c1f5f0-5b0a-5d52-8d0d-1b9a5f5a7c21")
_APPLIED_AT_ONCE = 8_000
_DECODED_AT_ONCE = 100
_LONGEST_TURN_SECONDS = 0.2
_LOOKS = 3
_TRIES = 20
_LOOK_PAUSE_SECONDS = 0.02
_ALL = 1 << 31
_BUILT_FROM = 20_000
"""From so many events on, a read model that is not there is built as a rebuild builds it."""

_STANDBY_SECONDS = 0.25
_LOOK_AGAIN_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class ReadModelStatus:
    """How a read model stands.

    Attributes:
        name: the projection.
        version: the version of its rows.
        is_current: whether it is the version that this software reads.
        position: up to where the log is applied; 0 if there is no table yet.
        lag_events: how many events are not.
        lag_seconds: for how long the oldest of them has been in the log.
        rows: how many rows there are.
        parked: how many events are parked.
        rebuilt_at: when it was last rebuilt (UTC), if it was.
        rebuild_seconds: how long that took.
        rebuild_events: how many events it read.
        follower: the process that follows now, if one does.
        is_being_rebuilt: whether a rebuild runs now.
    """

    name: str
    version: int
    is_current: bool
    position: int
    lag_events: int
    lag_seconds: float
    rows: int
    parked: int
    rebuilt_at: datetime | None
    rebuild_seconds: float | None
    rebuild_events: int | None
    follower: str | None
    is_being_rebuilt: bool


Fill = Callable[["ReadModels", Sequence[Task], Callable[[int], None]], None]
"""Does tasks, all at the same time, and tells of every number of events that were read."""

_Read = TypeVar("_Read", Found, Selected)
_T = TypeVar("_T")


class ReadModels:
    """The read models of some projections, on an event log. Methods block, and may be called from any thread.

    A read first applies what the log has more, unless it is told not to; many that do so at the same time
    share the work.

    Args:
        log: the events.
        store: where the rows are kept.
        groups: projections that are applied together, in one transaction, so that their rows always fit
            each other. One group does not hold up another.
        process: what this process is called, for who asks who follows.
        largest_row: how many bytes a row may take as JSON; an event that makes a larger one is parked.
        fill: fills tables from the log, by several workers at once if it can.
        elsewhere: opens the read models of the same projections in another database, which a URL names.
        patience: how long a read waits for a database that is away.
    """

    def __init__(
        self,
        log: EventLog,
        store: ReadModelStore,
        groups: Sequence[Sequence[Projection[Any]]],
        *,
        process: str,
        largest_row: int = LARGEST_ROW_BYTES,
        fill: Fill = fill_here,
        elsewhere: "Callable[[str], ReadModels] | None" = None,
        patience: Patience | None = None,
    ) -> None:
        self.log = log
        self.patience = patience or Patience(_PATIENCE_SECONDS)
        self.store = store
        self.process = process
        self.largest_row = largest_row
        self.fill = fill
        self._elsewhere = elsewhere
        self.projections: dict[str, Projection[Any]] = {}
        self._groups: dict[str, tuple[Projection[Any], ...]] = {}
        for group in groups:
            for projection in group:
                if projection.name in self.projections:
                    before = self.projections[projection.name]
                    raise ConfigurationError(
                        f"Two different projections are called {projection.name!r}: {before.origin}, and "
                        f"{projection.origin}.",
                        hint="Give one of them another name, or remove it from the argument `projections` "
                        "or from DEPLOYLEDGER_PROJECTIONS.",
                    )
                self.projections[projection.name] = projection
                self._groups[projection.name] = tuple(group)
        self._turns = {name: threading.Lock() for name in self.projections}
        self._prepared: set[str] = set()
        self._process = OpeningProcess()

    def elsewhere(self, url: str) -> "ReadModels":
        """Return the read models of the same log and projections in another database; close its store.

        Raises:
            ConfigurationError: if that is the database of the log or of these read models.
        """
        if self._elsewhere is None:
            raise ConfigurationError("These read models are in one database only.")
        return self._elsewhere(url)

    @property
    def groups(self) -> list[tuple[Projection[Any], ...]]:
        """The projections, by what is applied together."""
        return list(dict.fromkeys(self._groups.values()))

    def projection(self, name: str) -> Projection[Any]:
        """Return a projection by its name.

        Raises:
            ConfigurationError: if there is none.
        """
        try:
            return self.projections[name]
        except KeyError:
            raise ConfigurationError(
                f"Unknown projection {name!r}.",
                hint=f"There are {', '.join(sorted(self.projections))}.",
            ) from None

    def group(self, projection: Projection[Any]) -> tuple[Projection[Any], ...]:
        """Return the projections that are applied together with this one, itself among them."""
        return self._groups[projection.name]

    def _reliably(self, work: Callable[[], _T]) -> _T:
        """Return what work returns; if rows are damaged, gone or of another log, after they were rebuilt.

        While a database is away, it is done again until the patience is over.
        """
        if self._process.is_another:
            raise ReadModelError(opened_before(f"The read models in {self.store.described_as}"), hint=HINT)
        return self.patience.call(lambda: self._done(work))

    def _done(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except UnreliableReadModelsError as error:
            self.store.renew(error)
            LOGGER.warning("%s They are rebuilt from the event log.", error.message)
        except MissingReadModelError:  # another process has renewed them, or somebody has removed this one
            pass
        except LogDivergedError:  # preparing them again finds out which are of another log
            pass
        self._prepared.clear()
        return work()

    def _stored(self, work: Callable[[], _T]) -> _T:
        """Return what work returns that changes rows; if they are damaged or gone, after they were rebuilt.

        Raises:
            ReadModelError: if the changes would end with this process, because the database is unwritable.
        """

        def checked() -> _T:
            self._check_is_writable()
            return work()

        return self._reliably(checked)

    def _check_is_writable(self) -> None:
        if reason := self.store.unwritable:
            raise ReadModelError(
                f"The read models in {self.store.described_as} cannot be written: {reason}. Nothing was "
                "changed in them.",
                hint="Make the folder writable, or free space on its disk, and run the command again.",
            )

    # Reading ----------------------------------------------------------------------------------------

    def get(
        self,
        name: str,
        key: str,
        consistency: Consistency | str = Consistency.CURRENT,
    ) -> Any:
        """Return the row of a read model with a key, or None if there is none.

        Raises:
            ConfigurationError: if there is no such projection.
            ReadModelError: if the row's first event is parked, so that there is none to show.
        """
        projection = self.projection(name)
        return self.row_of(projection, self.find(projection, key, consistency).row)

    def row_of(self, projection: Projection[Any], stored: Any) -> Any:
        """Return a stored row as the projection made it."""
        if stored is None:
            return None
        if stored.state is None:
            parked = self._reliably(lambda: self.store.parked(projection, stored.key, limit=1))
            raise ReadModelError(
                f"{stored.key} cannot be shown: event {stored.parked_from} of the log is parked "
                f"({parked[0].error if parked else 'why is not known'}).",
                hint=f"`deployledger projections parked retry {projection.name}` tries again.",
            )
        try:
            return projection.decode(stored.columns, stored.state)
        except ValueError as error:
            raise ReadModelError(
                f"Row {stored.key} of projection {projection.name} cannot be read: "
                f"it was modified outside its projection.",
                hint=f"`deployledger projections verify {projection.name} --repair` rebuilds it.",
            ) from error

    def find(
        self, projection: Projection[Any], key: str, consistency: Consistency | str = Consistency.CURRENT
    ) -> Found:
        """Return the stored row with a key, and the position that it is of."""
        wanted = _consistency(consistency)
        return self._reliably(lambda: self._read(projection, wanted, lambda: self.store.get(projection, key)))

    def select(
        self,
        projection: Projection[Any],
        selection: Selection,
        *,
        answer: Projection[Any] | None = None,
        consistency: Consistency | str = Consistency.CURRENT,
    ) -> Selected:
        """Return the rows that are selected; of another read model, if there is an ``answer``.

        Raises:
            ConfigurationError: if the selection asks for what the projection has not.
        """
        check_selection(projection, selection)
        wanted, rows = _consistency(consistency), answer or projection
        return self._reliably(
            lambda: self._read(projection, wanted, lambda: self.store.select(projection, selection, rows))
        )

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return the rows of a temporal projection that are selected, as they were at a position.

        Raises:
            ConfigurationError: if the projection keeps no past rows, there is no such position yet, or the
                selection asks for what the projection has not.
        """
        check_selection(projection, selection)
        if not projection.temporal:
            raise ConfigurationError(f"Projection {projection.name} keeps no rows of the past.")
        return self._reliably(lambda: self._select_as_of(projection, selection, as_of))

    def _select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        self._prepare(projection)
        while True:
            found = self.store.select_as_of(projection, selection, as_of)
            end = self.log.end()
            self._check_is_of_log(Mark(found.position, found.marker), end)
            if as_of > end.position:
                raise ConfigurationError(
                    f"There is no position {as_of} in the event log: it ends at position {end.position}.",
                    hint="`deployledger log tail` shows the last positions.",
                )
            if found.position >= as_of:
                return found
            self._catch_up(projection, as_of, found.position)

    def _read(
        self, projection: Projection[Any], consistency: Consistency, read: Callable[[], _Read]
    ) -> _Read:
        self._prepare(projection)
        if consistency is Consistency.EVENTUAL:
            return read()
        until: int | None = None
        while True:
            found = read()
            # The log is looked at after the rows, or together with them: they are beyond it if it went back.
            end = self.log.end() if found.end is None else found.end
            if until is None:
                until = end.position  # what was acknowledged before the read began is at or before it
            if found.position >= end.position:
                self._check_is_of_log(Mark(found.position, found.marker), end)
                return found
            if found.position >= until:  # whoever applied it has checked it
                return found
            self._catch_up(projection, until, found.position)

    def _check_is_of_log(self, mark: Mark, end: Mark) -> None:
        """Check that rows were made from this log.

        Args:
            mark: up to where the log was applied to them.
            end: the end of the log, looked at later.

        Raises:
            LogDivergedError: if they were not.
        """
        if mark.position == end.position:
            expected = end
        else:
            expected = NOTHING_READ if mark.position > end.position else self._mark_at(mark.position)
        if mark.position and mark != expected:
            raise LogDivergedError(self.log.described_as, position=mark.position)

    # Applying ---------------------------------------------------------------------------------------

    def catch_up(self, projection: Projection[Any], until: int | None = None) -> int:
        """Apply what the log has more, to the projection and those of its group; return up to where.

        Args:
            until: what is behind this position may be left to others; None means the end of the log.
        """

        def catch_up() -> int:
            self._prepare(projection)
            mark, end = self.store.marker(projection), self.log.end()
            if mark.position >= end.position:
                self._check_is_of_log(mark, end)
            return self._catch_up(projection, end.position if until is None else until, mark.position)

        return self._reliably(catch_up)

    def _catch_up(self, projection: Projection[Any], end: int, reached: int) -> int:
        """Apply what is missing up to a position, from where the rows were when they were looked at."""
        group = self.group(projection)
        with self._turns[group[0].name]:  # others in this process wait here, and find the work done
            while True:
                reached = self._apply_some(group, end, reached)
                if reached >= end:
                    return reached

    def _apply_some(self, group: Sequence[Projection[Any]], end: int, after: int) -> int:
        # Read before the transaction: who is in one takes no second connection, for which others may wait.
        raws = self.log.read_raw(after=max(0, after - 1), limit=_APPLIED_AT_ONCE + 1) if after < end else []
        if after < end and (not raws or raws[-1].position <= after):
            raise LogDivergedError(self.log.described_as, position=end)
        with self.store.applying(group) as applying:
            reached = min(applying.position(projection) for projection in group)
            if reached < after or after >= end:  # others of the group are further behind, or were rebuilt
                return reached
            with rare_collections:
                return self.apply(applying, group, raws)

    def apply_until(self, applying: Applying, group: Sequence[Projection[Any]], until: int) -> None:
        """Apply events up to a position to the tables that are read, in a transaction."""
        while (reached := min(applying.position(projection) for projection in group)) < until:
            last = min(until, reached + _APPLIED_AT_ONCE)
            self.apply(applying, group, self.raws(max(0, reached - 1), last))

    def raws(self, after: int, until: int) -> list[RawEvent]:
        """Return the events behind a position and up to another one, read on a connection of its own."""
        return [raw for page in self.log.scan(after=after, until=until) for raw in page]

    def apply(self, applying: Applying, group: Sequence[Projection[Any]], raws: Sequence[RawEvent]) -> int:
        """Apply events to the tables that are read, in a transaction; return up to where.

        That may not be all of them: nobody is to wait for long because a fold takes its time.

        Args:
            raws: the next events, behind the last one that was applied, which is the first of them. What
                was applied already is passed over.

        Raises:
            LogDivergedError: if the events that were applied last are not the ones that the log has there.
        """
        raws = self._not_applied(applying, group, raws)
        if not raws:
            return min(applying.position(projection) for projection in group)
        behind = [projection for projection in group if applying.position(projection) < raws[-1].position]
        latest = time.monotonic() + _LONGEST_TURN_SECONDS
        last = raws[-1]
        work = []
        for projection in behind:
            table = applying.table(projection)
            folding = self.folding(projection, table)
            folding.load(raws)
            work.append((projection, applying.position(projection), table, folding))
        alike = len({(projection.topics, position) for projection, position, *_ in work}) == 1
        for some in _parts(raws):
            decoded = decode_all(some, behind, self.log.decode)
            for projection, position, _, folding in work:
                folding.apply(decoded if alike else read_by(projection, decoded, after=position))
            last = some[-1]
            if time.monotonic() > latest:
                break
        for projection, position, table, folding in work:
            table.save(folding.changes())
            if position < last.position:
                applying.advance(projection, *mark_of(last))
        return last.position

    def _not_applied(
        self, applying: Applying, group: Sequence[Projection[Any]], raws: Sequence[RawEvent]
    ) -> Sequence[RawEvent]:
        """Return the events behind what was applied; check that they continue it."""
        marks = {applying.mark(projection) for projection in group}
        first = raws[0].position if raws else 1
        for position, expected in marks:
            found = raws[position - first] if first <= position < first + len(raws) else None
            is_ahead = bool(raws) and position > raws[-1].position  # which was checked when it was applied
            if position and not is_ahead and (found is None or mark_of(found) != (position, expected)):
                raise LogDivergedError(self.log.described_as, position=position)
        return raws[min(marks).position - first + 1 :]

    def folding(self, projection: Projection[Any], table: Rows, *, is_new: bool = False) -> Folding:
        """Return what applies events to the rows of a table."""
        return Folding(projection, table, self.log, largest_row=self.largest_row, is_new=is_new)

    def prepare(self) -> None:
        """Create what is not there yet of every read model, for users who may not create tables later.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        for projection in self.projections.values():
            self._stored(partial(self._prepare, projection))

    def _prepare(self, projection: Projection[Any]) -> None:
        """Have a table for the projection and those of its group."""
        if projection.name in self._prepared:
            return
        group = self._groups[projection.name]
        with self._turns[group[0].name]:
            end = self.log.position()  # this opens the log's database, which may be that of the rows
            missing = self.store.prepare(group)
            missing += self.forget_another_log([it for it in group if it not in missing])
            while missing and end >= _BUILT_FROM:
                try:
                    names = [projection.name for projection in missing]
                    rebuilding.rebuild(self, names, 1, lambda done, total: None)
                except ConflictError:  # another process is at it: wait for that
                    time.sleep(_LOOK_AGAIN_SECONDS)
                missing = self.store.prepare(group)
            self.store.begin_empty(missing)
            self._prepared.update(it.name for it in group)

    def forget_another_log(self, projections: Sequence[Projection[Any]]) -> list[Projection[Any]]:
        """Leave those without rows that were made from another log, as when an older one was restored.

        Returns:
            Those projections; they have to be rebuilt.
        """
        found: list[Projection[Any]] = []
        for projection in projections:
            mark = self.store.marker(projection)
            if self._mark_at(mark.position) != mark:
                if self.store.forget(projection, mark):  # else another process did, and reported it
                    LOGGER.warning(
                        "The read model %s belongs to another event log: event %d is not the one it was "
                        "built from. It is rebuilt.",
                        projection.label,
                        mark.position,
                    )
                found.append(projection)
                self._prepared.discard(projection.name)
        return found

    def _mark_at(self, position: int) -> Mark:
        """Return the mark of whoever has read the log up to a position; of nobody, if there is none."""
        raws = self.log.read_raw(after=position - 1, limit=1) if position else []
        return mark_of(raws[0]) if raws and raws[0].position == position else NOTHING_READ

    def check_has(self, mark: Mark) -> None:
        """Check that the log has what was read of it.

        Raises:
            LogDivergedError: if it has not.
        """
        if self._mark_at(mark.position) != mark:
            raise LogDivergedError(self.log.described_as, position=mark.position)

    # Following --------------------------------------------------------------------------------------

    def follow(
        self,
        stopping: threading.Event,
        *,
        on_problem: Callable[[Exception], None] = lambda _: None,
        names: Iterable[str] | None = None,
    ) -> None:
        """Keep the read models up to date until told to stop; each group in a thread of its own.

        Any number of processes may do so on the same database: one does the work, and another one goes
        on when it ends, however it ends.

        Args:
            on_problem: is told of problems other than a database that is away; it is tried again after both.
            names: only these projections, and those of their groups.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        wanted = {self._groups[self.projection(name).name] for name in names or self.projections}
        threads = [
            threading.Thread(
                target=self._follow_group, args=(group, stopping, on_problem), name=f"follow {group[0].name}"
            )
            for group in wanted
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_is_writable()

    def _follow_group(
        self,
        group: Sequence[Projection[Any]],
        stopping: threading.Event,
        on_problem: Callable[[Exception], None],
    ) -> None:
        self.patience.try_once()  # this thread tries again by itself, and ends when it is told to
        pause = pauses(_LONGEST_PAUSE_SECONDS)
        is_probed = False
        while not stopping.is_set() and not self.store.unwritable:
            try:
                if not is_probed:  # before the lock, which cannot be had in a folder that is unwritable
                    self.log.position()
                    self.store.prepare(group)
                    is_probed = True
                with self.log.ownership(self._lock("follow", group[0])) as is_follower:
                    if is_follower:
                        self._prepare(group[0])
                        self.store.follow_as(group, self.process)
                        pause = pauses(_LONGEST_PAUSE_SECONDS)
                        self._follow_now(group, stopping)
                stopping.wait(_STANDBY_SECONDS)
            except DatabaseUnavailableError:  # which is reported where it is found
                stopping.wait(next(pause))
            except Exception as error:  # a thread that ended would follow no more
                on_problem(error)
                stopping.wait(_AGAIN_SECONDS)

    def _follow_now(self, group: Sequence[Projection[Any]], stopping: threading.Event) -> None:
        with self.log.watch() as watch:
            while not stopping.is_set() and not self.store.unwritable:
                self.catch_up(group[0])
                watch.wait(_LOOK_AGAIN_SECONDS)

    def _lock(self, purpose: str, projection: Projection[Any]) -> UUID:
        """Return the name of a lock among all processes that use the same database of read models."""
        place = self.store.described_as
        if not place.startswith("postgresql:"):  # a file of this machine, or memory of this process
            place = f"{self.process if place == 'memory' else self.process.partition(':')[0]} {place}"
        label = f"{purpose} {projection.name} {projection.version} {place}"
        return uuid5(_NAMESPACE, label)

    @contextmanager
    def exclusively(self, projection: Projection[Any]) -> Iterator[bool]:
        """Enter with whether nobody else rebuilds this projection."""
        lock = self._lock("rebuild", projection)
        for _ in range(_TRIES):  # who only looks at it has it for a moment
            with self.log.ownership(lock) as is_free:
                if is_free:
                    yield True
                    return
            time.sleep(_LOOK_PAUSE_SECONDS)
        yield False

    # What there is ----------------------------------------------------------------------------------

    def status(self) -> list[ReadModelStatus]:
        """Return how all read models stand: those of this software, and older versions that are left."""
        return self._reliably(self._status)

    def _status(self) -> list[ReadModelStatus]:
        end = self.log.position()
        self.store.prepare([])
        records = {(record.name, record.version): record for record in self.store.records()}
        found: list[ReadModelStatus] = []
        wanted = {(it.name, it.version) for it in self.projections.values()}
        for name, version in sorted({*records, *wanted}):
            record = records.get((name, version))
            position = record.position if record else 0
            projection = self.projections.get(name)
            is_current = projection is not None and projection.version == version
            follower, is_being_rebuilt = None, False
            if projection is not None and is_current:
                first = self._groups[name][0]
                is_followed = self._is_held(self._lock("follow", first))
                follower = record.follower if is_followed and record is not None else None
                is_being_rebuilt = self._is_held(self._lock("rebuild", projection))
            found.append(
                ReadModelStatus(
                    name=name,
                    version=version,
                    is_current=is_current,
                    position=position,
                    lag_events=max(0, end - position),
                    lag_seconds=self._lag_seconds(position, end),
                    rows=record.rows if record else 0,
                    parked=record.parked if record else 0,
                    rebuilt_at=record.rebuilt_at if record else None,
                    rebuild_seconds=record.rebuild_seconds if record else None,
                    rebuild_events=record.rebuild_events if record else None,
                    follower=follower,
                    is_being_rebuilt=is_being_rebuilt,
                )
            )
        return found

    def _is_held(self, lock: UUID) -> bool:
        """Return whether a lock is held by who works, not by somebody who looks at it as we do."""
        for _ in range(_LOOKS):
            with self.log.ownership(lock) as is_free:
                if is_free:
                    return False
            time.sleep(_LOOK_PAUSE_SECONDS)
        return True

    def _lag_seconds(self, position: int, end: int) -> float:
        if position >= end:
            return 0.0
        recorded_at = self.log.recorded_at(position + 1)
        if recorded_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - recorded_at).total_seconds())

    # Parked events ----------------------------------------------------------------------------------

    def parked(
        self, name: str | None = None, key: str | None = None, limit: int = 1000
    ) -> list[tuple[str, ParkedEvent]]:
        """Return parked events with the name of their projection, in the order of the log."""
        wanted = [self.projection(name)] if name else list(self.projections.values())

        def parked() -> list[tuple[str, ParkedEvent]]:
            found: list[tuple[str, ParkedEvent]] = []
            for projection in wanted:
                self._prepare(projection)
                found += [(projection.name, it) for it in self.store.parked(projection, key, limit)]
            return found

        return self._reliably(parked)

    def retry(self, name: str, key: str | None = None) -> int:
        """Try parked events of a projection again, of one row or of all; return how many are still parked.

        Raises:
            ConfigurationError: if there is no such projection.
            ResourceNotFoundError: if nothing is parked for the key.
        """
        projection = self.projection(name)
        keys = {it.key for _, it in self.parked(name, key, limit=_ALL)}
        if key is not None and not keys:
            raise ResourceNotFoundError("Parked event", f"of {key}")
        if keys and projection.is_by_stream:
            self.refold(name, sorted(keys))
        elif keys:
            self.rebuild([name])
        return len(self.parked(name, key, limit=_ALL))

    # Making rows anew -------------------------------------------------------------------------------

    def refold(self, name: str, keys: Sequence[str]) -> None:
        """Make single rows of a projection anew from the log, while everything else goes on.

        Raises:
            ConfigurationError: if the projection makes its keys itself: only a rebuild makes its rows anew.
        """
        projection = self.projection(name)
        if not projection.is_by_stream:
            raise ConfigurationError(
                f"Projection {name} has keys of its own: a single row of it cannot be rebuilt.",
                hint=f"Rebuild all of it: `deployledger projections rebuild {name}`.",
            )
        for key in keys:
            self._stored(partial(self._refold, projection, key))

    def _refold(self, projection: Projection[Any], key: str) -> None:
        self._prepare(projection)
        with self.store.applying([projection]) as applying:
            table = applying.table(projection)
            folding = self.folding(projection, table)
            folding.refold(key, applying.position(projection))
            table.save(folding.changes())

    def rebuild(
        self, names: str | Sequence[str], *, workers: int = 1, progress: Progress = lambda done, total: None
    ) -> list[Rebuilt]:
        """Rebuild read models from the log, into new tables, and switch to them when they are complete.

        Readers go on with the old tables until then, and writers with the log. If it is interrupted, the
        old tables stay, and the next rebuild removes what was built and starts clean.

        Args:
            workers: how many processes do the work; with one it is done in this process.
            progress: is told how many events were read, of how many.

        Raises:
            ConfigurationError: if there is no such projection, or the number of workers is out of range.
            ConflictError: if one of them is being rebuilt or verified.
            ReadModelError: if the database cannot be written.
        """
        wanted = [names] if isinstance(names, str) else names
        return self._stored(lambda: rebuilding.rebuild(self, wanted, workers, progress))

    def verify(
        self,
        names: str | Sequence[str],
        *,
        sample: int | None = None,
        workers: int = 1,
        progress: Progress = lambda done, total: None,
    ) -> list[Verified]:
        """Compare every row that is read with what the log says, at one position, while everything goes on.

        Args:
            sample: compare only about so many rows, chosen at random.
            workers: as for `rebuild`; so is ``progress``.

        Raises:
            ConfigurationError: if there is no such projection, the number of workers is out of range, or
                a projection that makes its keys itself is to be sampled.
            ConflictError: if one of them is being rebuilt or verified.
        """
        wanted = [names] if isinstance(names, str) else names
        return self._reliably(lambda: rebuilding.verify(self, wanted, sample, workers, progress))

    def repair(self, verified: Verified) -> None:
        """Make the rows anew that a verification found to be different, and the counts.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        projection = self.projection(verified.name)
        keys = [it.key for it in verified.differences if not it.key.startswith(COUNTS)]
        if projection.is_by_stream:
            self.refold(verified.name, list(dict.fromkeys(keys)))
        elif keys:
            self.rebuild([verified.name])
        if verified.differences and projection.counted:
            self._stored(partial(self._recount, projection))

    def _recount(self, projection: Projection[Any]) -> None:
        with self.store.applying([projection]) as applying:
            applying.table(projection).recount()

    def remove(self, name: str, version: int) -> None:
        """Remove the rows of a version of a read model, and all that belongs to them.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        self._stored(lambda: self.store.remove(name, version))


def _parts(raws: Sequence[RawEvent]) -> Iterator[Sequence[RawEvent]]:
    """Yield a few events at a time: what is decoded is soon done with, and takes no room in the meantime."""
    for start in range(0, len(raws), _DECODED_AT_ONCE):
        yield raws[start : start + _DECODED_AT_ONCE]


def _consistency(given: Consistency | str) -> Consistency:
    try:
        return Consistency(given)
    except ValueError:
        raise ConfigurationError(
            f"Unknown consistency {given!r}.", hint="Use 'current' or 'eventual'."
        ) from None
