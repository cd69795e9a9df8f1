"""Keeps read models up to date in the background."""

import threading
from collections.abc import Callable, Iterable

from deployledger.domain.exceptions import DatabaseUnavailableError
from deployledger.projections.applying import Applier, Group
from deployledger.projections.patience import Patience, pauses

_STANDBY_SECONDS = 0.25
_LOOK_AGAIN_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0


class Follower:
    """Keeps the read models of some groups up to date until told to stop; each in a thread of its own.

    Args:
        prepare: has tables for a group.
        catch_up: applies everything that the log has more to it.
        on_problem: is called with problems other than an unavailable database; it is tried again after both.
    """

    def __init__(
        self,
        applier: Applier,
        patience: Patience,
        prepare: Callable[[Group], object],
        catch_up: Callable[[Group], object],
        stopping: threading.Event,
        on_problem: Callable[[Exception], None],
    ) -> None:
        self._applier = applier
        self._patience = patience
        self._prepare = prepare
        self._catch_up = catch_up
        self._stopping = stopping
        self._on_problem = on_problem

    def run(self, groups: Iterable[Group]) -> None:
        """Follow until told to stop, or until what is stored would end with this process."""
        threads = [
            threading.Thread(target=self._follow, args=(group,), name=f"follow {group[0].name}")
            for group in groups
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def _has_ended(self) -> bool:
        return self._stopping.is_set() or bool(self._applier.store.unwritable)

    def _follow(self, group: Group) -> None:
        self._patience.try_once()  # this thread tries again by itself, and ends when it is told to
        applier = self._applier
        pause = pauses(_LONGEST_PAUSE_SECONDS)
        is_probed = False
        while not self._has_ended:
            try:
                if not is_probed:  # before the lock, which cannot be had in a folder that is unwritable
                    applier.log.position()
                    applier.store.prepare(group)
                    is_probed = True
                with applier.log.ownership(applier.lock("follow", group[0])) as is_follower:
                    if is_follower:
                        self._prepare(group)
                        applier.store.follow_as(group, applier.process)
                        pause = pauses(_LONGEST_PAUSE_SECONDS)
                        self._follow_now(group)
                self._stopping.wait(_STANDBY_SECONDS)
            except DatabaseUnavailableError:  # which is reported where it is found
                self._stopping.wait(next(pause))
            except Exception as error:  # a thread that ended would follow no more
                self._on_problem(error)
                self._stopping.wait(_AGAIN_SECONDS)

    def _follow_now(self, group: Group) -> None:
        with self._applier.log.watch() as watch:
            while not self._has_ended:
                self._catch_up(group)
                watch.wait(_LOOK_AGAIN_SECONDS)
