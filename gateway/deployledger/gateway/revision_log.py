"""The log of one revision: what its replicas print, and what the gateway does with them."""

import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

from deployledger.gateway.files import earlier
from deployledger.service.files.private import open_file

ROTATE_BYTES = 10 * 1024 * 1024
TAIL_LINES = 10


class RevisionLog:
    """Appends prefixed lines to a file; at 10 MiB the file is kept as ``<name>.1`` and a new one begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def tail(self) -> list[str]:
        """The last lines that replicas wrote through this object."""
        return list(self._tail)

    def write(self, speaker: str, line: str) -> None:
        """Append a line that a replica printed."""
        self._tail.append(line)
        self._append(speaker, line)

    def note(self, line: str) -> None:
        """Append a line of the gateway's own."""
        self._append("gateway", line)

    def close(self) -> None:
        """Close the file; nothing is written after that."""
        self._file.close()

    def _append(self, speaker: str, line: str) -> None:
        self._file.write(f"[{speaker}] {line}\n".encode())
        if self._file.tell() > ROTATE_BYTES:
            self._file.close()
            self._path.replace(earlier(self._path))
            self._file = _open(self._path)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", buffering=0)
