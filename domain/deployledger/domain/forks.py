"""What is opened in one process is not used in another one that was forked off from it.

A fork copies memory without the threads, and with every lock as it was at that moment: what waits for either
waits for good. A copied connection shares its socket, or its file's locks, with the parent.
"""

import os

HINT = (
    "Open it in this process. Of multiprocessing's start methods, 'spawn' and "
    "'forkserver' begin with nothing open."
)
"""What to do where something was opened before the fork."""


class OpeningProcess:
    """Remembers in which process something was opened."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_another(self) -> bool:
        """Whether that is not this process."""
        return os.getpid() != self._process


def opened_before(what: str) -> str:
    """Return the message that something was opened before this process was forked off."""
    return f"{what} was opened before this process was forked off."
