"""Detection of objects that were opened before a fork and must not be used in the child process.

A fork copies memory without the threads, and with every lock as it was at that moment, so waiting for either
never ends. A copied connection shares its socket, or its file's locks, with the parent.
"""

import os

HINT = "Open it in this process, or use multiprocessing's start method 'spawn' or 'forkserver'."
"""The hint of errors about objects that were opened before a fork."""


class OpeningProcess:
    """The process in which an object was opened."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_another(self) -> bool:
        """Whether it is a different process from the current one."""
        return os.getpid() != self._process


def opened_before(what: str) -> str:
    """Return the message that an object was opened before this process was forked."""
    return f"{what} was opened before this process was forked."
