"""Checks an extracted model against the digest that the event log names, each time that it is loaded."""

import argparse
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from deployledger.service.files.listing import FileEntry, decode_listing, tree_digest
from deployledger.service.files.reading import exists, file_status, is_folder, open_stored, read_stored, walk


class ModelDamagedError(Exception):
    """A file of a model is missing, cannot be read, or is not what the model's digest says."""


class ModelRefusedError(Exception):
    """The files are not a model that the server can load."""


class RuntimeMissingError(ModelRefusedError):
    """The model needs a package that is not installed."""


@dataclass(frozen=True)
class ModelFiles:
    """An extracted model, and what it must be.

    Attributes:
        folder: where its files are.
        listing: the file with the listing of these files.
        digest: the digest that the event log has for the model: that of the listing.
    """

    folder: Path
    listing: Path
    digest: str

    def check(self) -> None:
        """Return if the folder holds exactly the files of the digest; remove what does not belong there.

        Interpreters and libraries write caches into the folder. A cache is loaded like any other file, and
        nothing says what it should be, so none outlives the process that wrote it.

        Raises:
            ModelDamagedError: names the first file that is damaged.
        """
        for entry in self._entries():
            self._check(entry)

    def check_and_read(self, path: Path) -> bytes:
        """Check as `check` does, and return the contents of one file: the bytes that were checked.

        Raises:
            ModelDamagedError: names the first file that is damaged.
        """
        content = None
        for entry in self._entries():
            if self.folder / entry.path == path:
                content = self._read(entry)
            else:
                self._check(entry)
        if content is None:
            raise ModelDamagedError(f"{path} is not a file of the model {self.digest}.")
        return content

    def damage(self) -> list[str]:
        """Read everything and return what is damaged, a sentence each; nothing is removed."""
        try:
            entries = self._listed()
        except ModelDamagedError as error:
            return [str(error)]
        problems = []
        # Starting removes links, and so what is below them.
        links = {path for path, status in walk(self.folder) if stat.S_ISLNK(status.st_mode)}
        for entry in entries:
            try:
                self._check_folder()
                link = next((link for link in links if link in (self.folder / entry.path).parents), None)
                if link:
                    raise ModelDamagedError(f"{self.folder / entry.path} is missing: {link} is a link.")
                self._check(entry)
            except ModelDamagedError as error:
                problems.append(str(error))
        return problems

    def check_sizes(self) -> None:
        """Return if the folder has the files of the digest in the sizes they should have; none is read.

        What does not belong there is removed, as by `check`.

        Raises:
            ModelDamagedError: names the first file that is missing or has another size.
        """
        for entry in self._entries():
            path = self.folder / entry.path
            status = file_status(path)
            if status is None:
                raise ModelDamagedError(f"{path} is {'no file' if exists(path) else 'missing'}.")
            if status.st_size != entry.size:
                raise ModelDamagedError(
                    f"{path} is damaged: it has {status.st_size} bytes, "
                    f"and {entry.size} in the model {self.digest}."
                )

    def arguments(self) -> list[str]:
        """Return the command-line arguments that `from_arguments` reads."""
        return ["--files", str(self.folder), "--listing", str(self.listing), "--digest", self.digest]

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Let a command take `arguments`."""
        parser.add_argument("--files", type=Path, help="the folder of the model's files, to be checked")
        parser.add_argument("--listing", type=Path, help="the listing of these files")
        parser.add_argument("--digest", help="the digest of the listing")

    @staticmethod
    def from_arguments(arguments: argparse.Namespace) -> "ModelFiles | None":
        """Return what a command is to check; None if its gateway is of a version that did not say."""
        if arguments.digest is None:
            return None
        return ModelFiles(arguments.files, arguments.listing, arguments.digest)

    def _entries(self) -> list[FileEntry]:
        entries = self._listed()
        self._check_folder()
        expected = {self.folder / entry.path for entry in entries}
        for path, status in walk(self.folder):
            if path not in expected or not stat.S_ISREG(status.st_mode):
                _remove(path)
        return entries

    def _check_folder(self) -> None:
        """Return if the model's folder, and the one that is in, are ours: what links lead to is not."""
        if not exists(self.folder):
            raise ModelDamagedError(f"{self.folder} is missing.")
        for folder in (self.folder.parent, self.folder):
            if not is_folder(folder):
                what = "a link" if folder.is_symlink() else "not a folder"
                raise ModelDamagedError(f"{folder} is damaged: it is {what}.")

    def _listed(self) -> list[FileEntry]:
        try:
            listing = read_stored(self.listing)
        except OSError as error:
            raise ModelDamagedError(f"{self.listing} cannot be read: {error.strerror}.") from error
        if tree_digest(listing) != self.digest:
            raise ModelDamagedError(f"{self.listing} is damaged: it is not the listing of {self.digest}.")
        try:
            return decode_listing(listing)
        except ValueError as error:
            raise ModelDamagedError(f"{self.listing} is damaged: it is not a listing.") from error

    def _check(self, entry: FileEntry) -> None:
        path = self.folder / entry.path
        try:
            with open_stored(path) as file:
                self._compare(entry, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise _unreadable(path, error) from error

    def _read(self, entry: FileEntry) -> bytes:
        path = self.folder / entry.path
        try:
            content = read_stored(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._compare(entry, hashlib.sha256(content).hexdigest())
        return content

    def _compare(self, entry: FileEntry, sha256: str) -> None:
        if sha256 != entry.sha256:
            raise ModelDamagedError(
                f"{self.folder / entry.path} is damaged: its sha256 is {sha256}; in the model "
                f"{self.digest} it is {entry.sha256}."
            )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelDamagedError(
            f"{path} is not a file of the model, and cannot be removed: {error.strerror}."
        ) from error


def _unreadable(path: Path, error: OSError) -> ModelDamagedError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelDamagedError(f"{path} is missing.")
    return ModelDamagedError(f"{path} cannot be read: {error.strerror or error}.")
