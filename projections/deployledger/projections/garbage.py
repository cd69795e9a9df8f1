"""Python's search for garbage in cycles, while many events are applied."""

import gc
from threading import Lock

_ALLOCATIONS_BEFORE_COLLECTION = 200_000


class _RareCollections:
    """Makes the search for garbage in cycles rare: rows and events make none, and it took half the time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = gc.get_threshold()
                gc.set_threshold(_ALLOCATIONS_BEFORE_COLLECTION, *self._before[1:])
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                gc.set_threshold(*self._before)


rare_collections = _RareCollections()
