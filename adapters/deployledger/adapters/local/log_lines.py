"""Reading the log of a deployment's newest revision, while it is being written."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from deployledger.adapters.local.folders import DeploymentFolder, RevisionFolder

_POLL_SECONDS = 0.2
_CHUNK_BYTES = 256 * 1024


async def log_lines(folder: DeploymentFolder, *, follow: bool) -> AsyncIterator[str]:
    """Yield the lines of the newest revision's log.

    With ``follow``, go on with what is appended and with newer revisions, until the deployment is removed.
    """
    number: int | None = None
    tail: _Tail | None = None
    try:
        while True:
            newest = max(await asyncio.to_thread(folder.revisions), default=None)
            if newest is None and number is not None:
                return
            if newest is not None and newest != number:
                number = newest
                if tail is not None:
                    tail.close()
                tail = _Tail(folder.revision(newest))
            lines = await asyncio.to_thread(tail.read_lines) if tail is not None else []
            for line in lines:
                yield line
            if not lines and not follow:
                rest = tail.take_rest() if tail is not None else None
                if rest:
                    yield rest
                return
            if not lines:
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        if tail is not None:
            tail.close()


@dataclass
class _Tail:
    """Reads a log from the beginning of what is kept of it, through its rotations."""

    revision: RevisionFolder
    _file: BinaryIO | None = field(default=None, init=False)
    _rest: bytes = field(default=b"", init=False)

    def read_lines(self) -> list[str]:
        """Return the next complete lines; none when there are none for now."""
        while True:
            if self._file is None:
                self._file = _open(self.revision.earlier_log) or _open(self.revision.log)
                if self._file is None:
                    return []
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                following = self._following(self._file)
                if following is None:
                    return []
                chunk = self._file.read(_CHUNK_BYTES)  # what was written right before it was rotated
                if not chunk:
                    self.close()
                    self._file = following
                    continue
                following.close()
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return [line.decode("utf-8", errors="replace") for line in lines]

    def take_rest(self) -> str:
        """Return the last line if it has no end yet."""
        rest, self._rest = self._rest, b""
        return rest.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _following(self, file: BinaryIO) -> BinaryIO | None:
        """Return the file that goes on where this one ends, if the log was rotated since."""
        read = os.fstat(file.fileno()).st_ino
        if _inode(self.revision.log) == read:
            return None
        if _inode(self.revision.earlier_log) == read:
            return _open(self.revision.log)
        return _open(self.revision.earlier_log) or _open(self.revision.log)  # rotated twice meanwhile


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
