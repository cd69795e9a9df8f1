"""Read models: rows that are always current when they are read: readers and followers apply new events.

A read asks the store for rows; if they are behind, it first applies what the log has more. `ReadModels`
reads and catches up, an `Applier` applies events in a transaction, a `Folding` makes rows of them, and a
`Rebuilder` builds new tables beside those that are read.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    LogDivergedError,
    ReadModelError,
    ResourceNotFoundError,
)
from deployledger.domain.forks import HINT, OpeningProcess, opened_before
from deployledger.projections.applying import LOGGER, Applier, Group
from deployledger.projections.folding import DEFAULT_LARGEST_ROW_BYTES
from deployledger.projections.following import Follower
from deployledger.projections.partitioning import Progress
from deployledger.projections.patience import Patience
from deployledger.projections.projection import Consistency, Projection
from deployledger.projections.read_model_status import ReadModelStatus, read_model_statuses
from deployledger.projections.rebuilding import Fill, Rebuilder, Rebuilt, fill_here
from deployledger.projections.rows import ParkedEvent, StoredRow
from deployledger.projections.selection import Found, Selected, Selection, check_selection
from deployledger.projections.store import MissingReadModelError, ReadModelStore, UnreliableReadModelsError
from deployledger.projections.verifying import COUNTS, Verified, verify

_ALL = 1 << 31
_BUILT_FROM = 20_000
"""From so many events on, a read model that is not there is built as a rebuild builds it."""

_READ_AT_LEAST = 500
_LOOK_AGAIN_SECONDS = 0.1
_PATIENCE_SECONDS = 30.0

_Read = TypeVar("_Read", Found, Selected)
_T = TypeVar("_T")


class ReadModels:
    """The read models of some projections, on an event log. Methods block, and may be called from any thread.

    A read first applies what the log has more, unless told not to; many that do so at the same time
    share the work.

    Args:
        log: the events.
        store: where the rows are kept.
        groups: projections that are applied together, in one transaction, so that their rows always fit
            each other. One group does not hold up another.
        process: the name of this process, shown in the status of the read models that it follows.
        largest_row: how many bytes a row may take as JSON; an event that makes a larger one is parked.
        fill: fills tables from the log, by several workers at once if it can.
        elsewhere: opens the read models of the same projections in another database, which a URL names.
        patience: how long a read waits for an unavailable database.
    """

    def __init__(
        self,
        log: EventLog,
        store: ReadModelStore,
        groups: Sequence[Sequence[Projection[Any]]],
        *,
        process: str,
        largest_row: int = DEFAULT_LARGEST_ROW_BYTES,
        fill: Fill = fill_here,
        elsewhere: "Callable[[str], ReadModels] | None" = None,
        patience: Patience | None = None,
    ) -> None:
        self.log = log
        self.store = store
        self.patience = patience or Patience(_PATIENCE_SECONDS)
        self.applier = Applier(log, store, groups, process=process, largest_row=largest_row)
        self._rebuilder = Rebuilder(self.applier, fill)
        self._elsewhere = elsewhere
        self._turns = {group: threading.Lock() for group in self.groups}
        self._prepared: set[Group] = set()
        self._process = OpeningProcess()

    def elsewhere(self, url: str) -> "ReadModels":
        """Return the read models of the same log and projections in another database; close its store.

        Raises:
            ConfigurationError: if that is the database of the log or of these read models.
        """
        if self._elsewhere is None:
            raise ConfigurationError("No other database was configured for these read models.")
        return self._elsewhere(url)

    @property
    def groups(self) -> list[Group]:
        """The projections, by what is applied together."""
        return self.applier.groups

    @property
    def projections(self) -> dict[str, Projection[Any]]:
        """The projections, by name."""
        return self.applier.projections

    @property
    def largest_row(self) -> int:
        """How many bytes a row may take as JSON."""
        return self.applier.largest_row

    def projection(self, name: str) -> Projection[Any]:
        """Return a projection by its name.

        Raises:
            ConfigurationError: if there is none.
        """
        return self.applier.projection(name)

    def _reliably(self, work: Callable[[], _T]) -> _T:
        """Return what work returns; if rows are damaged, gone or of another log, after they were rebuilt.

        While a database is unavailable, it is done again until the patience is over.
        """
        if self._process.is_another:
            raise ReadModelError(opened_before(f"The read models in {self.store.described_as}"), hint=HINT)
        return self.patience.call(lambda: self._done(work))

    def _done(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except UnreliableReadModelsError as error:
            self.store.renew(error)
            level = logging.DEBUG if error.is_outdated else logging.WARNING
            LOGGER.log(level, "%s They are rebuilt from the event log.", error.message)
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

    def row_of(self, projection: Projection[Any], stored: StoredRow | None) -> Any:
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
        """Return the selected rows; those of another read model, if there is an ``answer``.

        Raises:
            ConfigurationError: if the selection names what the projection does not have.
        """
        check_selection(projection, selection)
        wanted, rows = _consistency(consistency), answer or projection
        return self._reliably(
            lambda: self._read(projection, wanted, lambda: self.store.select(projection, selection, rows))
        )

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return the selected rows of a temporal projection, as they were at a position.

        Raises:
            ConfigurationError: if the projection keeps no past rows, there is no such position yet, or the
                selection asks for what the projection has not.
        """
        check_selection(projection, selection)
        if not projection.temporal:
            raise ConfigurationError(f"Projection {projection.name} keeps no rows of the past.")
        return self._reliably(lambda: self._select_as_of(projection, selection, as_of))

    def _select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        self._prepare(self.applier.group(projection))
        while True:
            page = self.store.select_as_of(projection, selection, as_of)
            end = self.log.end()
            self.applier.check_has(Mark(page.position, page.marker), end)
            if as_of > end.position:
                raise ConfigurationError(
                    f"There is no position {as_of} in the event log: it ends at position {end.position}.",
                    hint="`deployledger log tail` shows the last positions.",
                )
            if page.position >= as_of:
                return page
            self._catch_up(projection, as_of, page.position)

    def _read(
        self, projection: Projection[Any], consistency: Consistency, read: Callable[[], _Read]
    ) -> _Read:
        self._prepare(self.applier.group(projection))
        if consistency is Consistency.EVENTUAL:
            return read()
        until: int | None = None
        while True:
            answer = read()
            # The log is looked at after the rows, or together with them: they are beyond it if it went back.
            end = self.log.end() if answer.end is None else answer.end
            if until is None:
                until = end.position  # what was acknowledged before the read began is at or before it
            if answer.position >= end.position:
                self.applier.check_has(Mark(answer.position, answer.marker), end)
                return answer
            if answer.position >= until:  # whoever applied it has checked it
                return answer
            self._catch_up(projection, until, answer.position)

    # Applying ---------------------------------------------------------------------------------------

    def catch_up(self, projection: Projection[Any], until: int | None = None) -> int:
        """Apply new events of the log to the projection and its group; return the position reached.

        Args:
            until: what is after this position may be left to others; None means the end of the log.
        """

        def catch_up() -> int:
            self._prepare(self.applier.group(projection))
            mark, end = self.store.mark(projection), self.log.end()
            if mark.position >= end.position:
                self.applier.check_has(mark, end)
            return self._catch_up(projection, end.position if until is None else until, mark.position)

        return self._reliably(catch_up)

    def _catch_up(self, projection: Projection[Any], end: int, reached: int) -> int:
        """Apply what is missing up to a position, from where the rows were when they were looked at."""
        group = self.applier.group(projection)
        with self._turns[group]:  # others in this process wait here, and find the work done
            most = _ALL
            while True:
                before, reached = reached, self.applier.apply_some(group, end, reached, most)
                if reached >= end:
                    return reached
                # A turn ends after some time, and what it has not applied by then was read in vain.
                most = max(_READ_AT_LEAST, 2 * (reached - before))

    def prepare(self) -> None:
        """Create missing tables of every read model, for users who may not create tables later.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        for group in self.groups:
            self._stored(partial(self._prepare, group))

    def _prepare(self, group: Group) -> None:
        """Have tables for a group."""
        if group in self._prepared:
            return
        with self._turns[group]:
            end = self.log.position()  # this opens the log's database, which may be that of the rows
            missing = self.store.prepare(group)
            there = [projection for projection in group if projection not in missing]
            missing += self.applier.forget_another_log(there)
            while missing and end >= _BUILT_FROM:
                try:
                    names = [projection.name for projection in missing]
                    self._rebuilder.rebuild(names, 1, lambda done, total: None)
                except ConflictError:  # another process is at it: wait for that
                    time.sleep(_LOOK_AGAIN_SECONDS)
                missing = self.store.prepare(group)
            self.store.begin_empty(missing)
            self._prepared.add(group)

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
            on_problem: is called with problems other than an unavailable database; both are retried.
            names: only these projections, and those of their groups.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        groups = {self.applier.group(self.projection(name)) for name in names or self.projections}
        Follower(
            self.applier,
            self.patience,
            self._prepare,
            lambda group: self.catch_up(group[0]),
            stopping,
            on_problem,
        ).run(groups)
        self._check_is_writable()

    def status(self) -> list[ReadModelStatus]:
        """Return the status of all read models: those of this software, and remaining older versions."""
        return self._reliably(lambda: read_model_statuses(self.applier))

    # Parked events ----------------------------------------------------------------------------------

    def parked(
        self, name: str | None = None, key: str | None = None, limit: int = 1000
    ) -> list[tuple[str, ParkedEvent]]:
        """Return parked events with the name of their projection, in the order of the log."""
        wanted = [self.projection(name)] if name else list(self.projections.values())

        def parked() -> list[tuple[str, ParkedEvent]]:
            parked: list[tuple[str, ParkedEvent]] = []
            for projection in wanted:
                self._prepare(self.applier.group(projection))
                parked += [(projection.name, event) for event in self.store.parked(projection, key, limit)]
            return parked

        return self._reliably(parked)

    def retry(self, name: str, key: str | None = None) -> int:
        """Try parked events of a projection again, of one row or of all; return how many are still parked.

        Raises:
            ConfigurationError: if there is no such projection.
            ResourceNotFoundError: if nothing is parked for the key.
        """
        projection = self.projection(name)
        keys = {event.key for _, event in self.parked(name, key, limit=_ALL)}
        if key is not None and not keys:
            raise ResourceNotFoundError("Parked event", f"of {key}")
        if keys and projection.is_by_stream:
            self.refold(name, sorted(keys))
        elif keys:
            self.rebuild([name])
        return len(self.parked(name, key, limit=_ALL))

    # Rebuilding rows --------------------------------------------------------------------------------

    def refold(self, name: str, keys: Sequence[str]) -> None:
        """Rebuild single rows of a projection from the log, while reads and writes continue.

        Raises:
            ConfigurationError: if the projection has keys of its own: only a full rebuild rebuilds its rows.
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
        self._prepare(self.applier.group(projection))
        with self.store.applying([projection]) as applying:
            table = applying.table(projection)
            folding = self.applier.folding(projection, table)
            folding.refold(key, applying.mark(projection).position)
            table.save(folding.changes())

    def rebuild(
        self, names: str | Sequence[str], *, workers: int = 1, progress: Progress = lambda done, total: None
    ) -> list[Rebuilt]:
        """Rebuild read models from the log, into new tables, and switch to them when they are complete.

        Readers go on with the old tables until then, and writers with the log. If it is interrupted, the
        old tables stay, and the next rebuild removes what was built and starts clean.

        Args:
            workers: how many processes do the work; with one it is done in this process.
            progress: called with the number of events read, and the total.

        Raises:
            ConfigurationError: if there is no such projection, or the number of workers is out of range.
            ConflictError: if one of them is being rebuilt or verified.
            ReadModelError: if the database cannot be written.
        """
        wanted = [names] if isinstance(names, str) else names
        return self._stored(lambda: self._rebuilder.rebuild(wanted, workers, progress))

    def verify(
        self,
        names: str | Sequence[str],
        *,
        sample: int | None = None,
        workers: int = 1,
        progress: Progress = lambda done, total: None,
    ) -> list[Verified]:
        """Compare every row with the log, at one position, while reads and writes continue.

        Args:
            sample: compare only about so many rows, chosen at random.
            workers: as for `rebuild`; so is ``progress``.

        Raises:
            ConfigurationError: if there is no such projection, the number of workers is out of range, or
                a projection with keys of its own is to be sampled.
            ConflictError: if one of them is being rebuilt or verified.
        """
        wanted = [names] if isinstance(names, str) else names
        return self._reliably(lambda: self._verify(wanted, sample, workers, progress))

    def _verify(
        self, names: Sequence[str], sample: int | None, workers: int, progress: Progress
    ) -> list[Verified]:
        projections = self._rebuilder.chosen(names, workers)
        for projection in projections:
            self.catch_up(projection)
        return verify(self._rebuilder, projections, sample, workers, progress)

    def repair(self, verified: Verified) -> None:
        """Rebuild the rows that differed in a verification, and recount them.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        projection = self.projection(verified.name)
        keys = [difference.key for difference in verified.differences if difference.key != COUNTS]
        if projection.is_by_stream:
            self.refold(verified.name, list(dict.fromkeys(keys)))
        elif keys:
            self.rebuild([verified.name])
        if verified.differences:
            self._stored(partial(self._recount, projection))

    def _recount(self, projection: Projection[Any]) -> None:
        with self.store.applying([projection]) as applying:
            applying.recount(projection)

    def remove(self, name: str, version: int) -> None:
        """Remove the rows of a version of a read model, and all that belongs to them.

        Raises:
            ReadModelError: if the database cannot be written.
        """
        self._stored(lambda: self.store.remove(name, version))


def _consistency(value: Consistency | str) -> Consistency:
    try:
        return Consistency(value)
    except ValueError:
        raise ConfigurationError(
            f"Unknown consistency {value!r}.", hint="Use 'current' or 'eventual'."
        ) from None
