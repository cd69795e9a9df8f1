"""File arguments of commands: ``-`` is a standard stream, and ``./-`` a file named ``-``."""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from deployledger.adapters.cli import streams
from deployledger.adapters.cli.usage import UsageError
from deployledger.service.files.private import is_shared, make_folder, share

STANDARD = Path("-")
"""The standard stream that a command reads or writes; no path of a file is spelled so (`file_to_write`)."""

_CHUNK_BYTES = 1 << 20


def file_to_write(text: str) -> Path:
    """Return the path that an argument is; ``./-`` as an absolute one, so that ``-`` is the stream alone."""
    path = Path(text)
    return path.absolute() if path == STANDARD and text != "-" else path


def file_to_read(text: str) -> Path:
    """Return the path that an argument is; for standard input, that of a copy, until the command ends.

    Raises:
        UsageError: if standard input is closed, a terminal, or was read for another argument.
    """
    if text != "-":
        return file_to_write(text)
    from deployledger.domain.exceptions import ConfigurationError

    try:
        source = _standard_input()
    except ConfigurationError as error:
        raise UsageError(error.message, hint=error.hint) from None
    folder = tempfile.mkdtemp(prefix="deployledger-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / "standard-input"
    with copy.open("wb") as file:
        shutil.copyfileobj(source, file)
    return copy


def place_to_read(text: str) -> str:
    """Return a place, which may also be a URI; for standard input, a copy, as `file_to_read`."""
    return str(file_to_read(text)) if text == "-" else text


def no_stream(text: str) -> str:
    """Return what an argument is, where files are that are read or written again later.

    Raises:
        UsageError: if it is ``-``.
    """
    if text == "-":
        raise UsageError(
            "A standard stream cannot be used here, because the file is needed later.",
            hint="Give the path of a file; ./- is a file named `-`.",
        )
    return text


def file_of_a_pair(text: str) -> Path:
    """Return the path of the first of two files; as `no_stream` otherwise."""
    return file_to_write(no_stream(text))


@contextmanager
def writing(file: Path) -> Iterator[Path]:
    """Enter with a file to be written; one that goes to standard output is copied there when it is complete.

    Raises:
        ConfigurationError: if that is a terminal.
        OutputError: if it cannot be written.
    """
    if file != STANDARD:
        yield file
        return
    answer = streams.answer()
    if answer.isatty():
        from deployledger.domain.exceptions import ConfigurationError

        raise ConfigurationError(
            "Standard output is a terminal; files are not written to one.",
            hint="Redirect it to a file or to another program; ./- is a file named `-`.",
        )
    with tempfile.TemporaryDirectory(prefix="deployledger-") as folder:
        whole = Path(folder) / "standard-output"
        yield whole
        with whole.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                answer.write_bytes(chunk)
        answer.flush()


def kept_input(folder: Path) -> Path:
    """Return a file in a folder that has what standard input has: CSV or JSON lines, as a batch job reads.

    It is named by its content, and stays: the job may be repeated by another process.

    Raises:
        ConfigurationError: if standard input is closed or a terminal.
    """
    source = _standard_input()
    make_folder(folder)
    digest, begin = hashlib.sha256(), b""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            if is_shared(folder):
                share(file.fileno())
            while chunk := source.read(_CHUNK_BYTES):
                begin = begin or chunk.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
                digest.update(chunk)
                file.write(chunk)
            os.fsync(file.fileno())
            kept = folder / f"{digest.hexdigest()}.{'jsonl' if begin in (b'{', b'[') else 'csv'}"
            Path(file.name).replace(kept)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return kept


def _standard_input() -> BinaryIO:
    """Return standard input, which is read once.

    Raises:
        ConfigurationError: if it is closed, a terminal, or was read already.
    """
    source, sys.stdin = sys.stdin, cast("TextIO", None)
    if source is None or source.isatty():
        from deployledger.domain.exceptions import ConfigurationError

        raise ConfigurationError(
            f"Standard input is {'a terminal' if source else 'closed, or was read already'}.",
            hint="Redirect a file into the command, or give its path; ./- is a file named `-`.",
        )
    return cast("BinaryIO", source.buffer)
