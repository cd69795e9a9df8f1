"""How many processes may share the work on a log."""

from deployledger.domain.exceptions import ConfigurationError

MOST_WORKERS = 64


def check_workers(workers: int) -> None:
    """Check a number of processes.

    Raises:
        ConfigurationError: if it is out of range.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(
            f"{workers} workers are out of range: 1 to {MOST_WORKERS}.",
            hint="More than the number of cores does not help.",
        )
