"""Python's search for garbage in cycles, in processes that are our own."""

import gc

_ALLOCATIONS_BEFORE_COLLECTION = 200_000


def collect_rarely() -> None:
    """Make the search for garbage in cycles rare in this process: rows and events make none.

    It takes up to half the time of work on many events. The process of an application is not ours to tune, so
    this is for the command line and for worker processes.
    """
    gc.set_threshold(_ALLOCATIONS_BEFORE_COLLECTION, *gc.get_threshold()[1:])
