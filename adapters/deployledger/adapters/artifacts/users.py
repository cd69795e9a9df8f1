"""Which event logs use which models of a store: an empty file for each pair."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from deployledger.service.files.private import make_folder
from deployledger.service.files.reading import read_stored
from deployledger.service.files.writing import write_new, write_whole

_MARK = ".unneeded"


class Users:
    """The files of one store. Whoever changes them holds the lock of the store.

    A log is noted as the user of a model before it records that it has it. So the models that a log neither
    records as needed, nor is about to record, are those that it marked and nobody noted again, once every
    deployment that was being fetched when it marked them is fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, user: str, digest: str) -> None:
        """Record that a log uses a model.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(user, digest)
        make_folder(path.parent)
        write_new(path)
        _marked(path).unlink(missing_ok=True)

    def mark(self, user: str, digest: str, waits_for: Sequence[str]) -> None:
        """Record that a log does not need a model, unless some deployments do.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(user, digest)
        make_folder(path.parent)
        write_whole(_marked(path), "".join(f"{each}\n" for each in waits_for).encode())
        path.unlink(missing_ok=True)

    def forget(self, user: str, digest: str) -> None:
        """Record that a log does not use a model."""
        path = self._path(user, digest)
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink(missing_ok=True)
            _marked(path).unlink(missing_ok=True)

    def of(self, digest: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Return the logs that use a model, and those that marked it, each with what it waits for."""
        users, marked_by = [], {}
        for log in self._logs():
            path = self._path(log, digest)
            if path.exists():
                users.append(log)
            with suppress(OSError, ValueError):
                marked_by[log] = tuple(read_stored(_marked(path)).decode().split())
        return tuple(users), marked_by

    def _logs(self) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from sorted(path.name for path in self.folder.iterdir())

    def _path(self, user: str, digest: str) -> Path:
        return self.folder / user / digest.removeprefix("sha256:")


def _marked(path: Path) -> Path:
    return path.with_name(f"{path.name}{_MARK}")
