"""Where a batch job's files are: on this machine, or in an object store, through fsspec.

Credentials come from the ecosystem's own chains (environment, profiles, instance roles), never from a job's
arguments.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from deployledger.serving.batch_status import BatchError, input_invalid

CODECS = {".gz": "gzip", ".zst": "zstd"}
_WILDCARDS = "*?["


@dataclass(frozen=True)
class Place:
    """A file system, and a path in it."""

    files: Any
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return isinstance(self.files, LocalFileSystem)

    @property
    def real(self) -> Path:
        """The path by which it is compared with others."""
        return Path(self.path).resolve() if self.is_local else Path(self.path)


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        place: where it is.
        size: its bytes.
        version: changes when its contents do.
    """

    place: Place
    size: int
    version: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.place.path

    @contextmanager
    def open(self) -> "Iterator[Any]":
        """Open it for reading bytes.

        Raises:
            BatchError: it cannot be read.
        """
        with _blaming(self.name):
            if self.place.is_local:
                with pa.OSFile(self.place.path) as file:
                    yield file
            else:
                with self.place.files.open(self.place.path, "rb") as file:
                    yield file


def place_of(uri: str) -> Place:
    """Return the place that a path or a URI names.

    Raises:
        BatchError: the library of its file system is not installed, or refuses it.
    """
    if uri.startswith("/") or "://" not in uri:
        return Place(LocalFileSystem(), uri)
    scheme = uri.partition(":")[0]
    try:
        files, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise BatchError("runtime_missing", f"{scheme}:// cannot be used: {error}.") from error
    except Exception as error:  # each file system has exceptions of its own
        raise BatchError("batch_failed", f"{uri} cannot be used: {error}.") from error
    return Place(files, path)


def input_files(uri: str) -> list[InputFile]:
    """Return the files that a path or a URI names: one, those of a folder, or those that match; by name.

    In a folder, files whose name begins with ``_`` or ``.`` are not data, as in Spark and Hive.

    Raises:
        BatchError: there are none, or they cannot be listed.
    """
    place = place_of(uri)
    files = place.files
    with _blaming(uri):
        if any(each in place.path for each in _WILDCARDS) and not files.exists(place.path):
            paths = [path for path in files.glob(place.path) if files.isfile(path)]
        elif files.isdir(place.path):
            paths = [path for path in files.find(place.path) if _is_data(path, place.path)]
        else:
            paths = [place.path]
        found = [InputFile(Place(files, path), files.size(path), files.ukey(path)) for path in sorted(paths)]
    if not found:
        raise input_invalid(
            f"No files found at {uri}.",
            "Correct the path, and retry.",
        )
    return found


def _is_data(path: str, folder: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in Path(os.path.relpath(path, folder)).parts)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Report which input cannot be read, and why."""
    try:
        yield
    except FileNotFoundError as error:
        raise input_invalid(f"{name} does not exist.", "Correct the path, and retry.") from error
    except OSError as error:
        raise input_invalid(f"{name} cannot be read: {error.strerror or error}.") from error


def split_suffixes(name: str) -> tuple[str, str | None]:
    """Return a file's suffix, in lower case, and the codec that a further one names, such as gzip."""
    path = Path(name.rstrip("/"))
    codec = CODECS.get(path.suffix.lower())
    return (Path(path.stem) if codec else path).suffix.lower(), codec
