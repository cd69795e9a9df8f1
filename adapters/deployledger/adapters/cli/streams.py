"""Standard output and standard error: what is written to them, and what becomes of it when they fail.

A deployment does not fail because its output cannot be written. Characters that a stream cannot encode are
written as escapes; a failing standard error is abandoned silently; a failing standard output raises
`OutputError`, which the command line turns into one sentence and an exit code.
"""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from deployledger.domain.visible import visible

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_PLAIN = str.maketrans(dict(zip("✓✗•–−·│─└", "+x*--.|-`", strict=True)) | {"…": "...", "→": "->"})
"""What our own marks are where the encoding has none."""


class OutputError(Exception):
    """Standard output could not be written.

    Attributes:
        reason: why, in words.
        is_unwanted: whether the reader stopped reading, as ``head`` does.
    """

    def __init__(self, cause: OSError) -> None:
        self.reason = cause.strerror or str(cause)
        self.is_unwanted = cause.errno == errno.EPIPE
        super().__init__(self.reason)


class Stream(io.TextIOBase):
    """A standard stream that writes what it cannot encode as escapes, and whose failures are known.

    Args:
        stream: the stream as Python opened it; None if it was closed when Python was started.
        is_answer: whether a failure is an error, rather than of no consequence.
    """

    def __init__(self, stream: TextIO | None, *, is_answer: bool) -> None:
        self._stream = stream
        self._is_answer = is_answer
        self._has_failed = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property in typeshed's text streams alone
        """How characters become bytes."""
        return (self._stream and self._stream.encoding) or "utf-8"

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the number of the file."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return that it is for writing."""
        return True

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OutputError: if it is the answer, and cannot be written.
        """
        if self._has_failed:
            return len(text)
        with self._watched() as stream:
            stream.write(self._encodable(text))
        return len(text)

    def write_bytes(self, content: bytes) -> None:
        """Write bytes as they are.

        Raises:
            OutputError: as `write`.
        """
        with self._watched() as stream:
            stream.flush()
            stream.buffer.write(content)

    def flush(self) -> None:
        """Write buffered text.

        Raises:
            OutputError: as `write`.
        """
        if self._stream is not None and not self._has_failed:
            with self._watched() as stream:
                stream.flush()

    @contextmanager
    def _watched(self) -> Iterator[TextIO]:
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            yield self._stream
        except (OSError, ValueError) as error:  # a ValueError if it was closed
            self._fail(error)

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return text.translate(_PLAIN).encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    def _fail(self, error: OSError | ValueError) -> None:
        """Write nothing more, not even buffered text when Python exits."""
        self._has_failed = True
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:  # it may be no file
            os.dup2(nothing.fileno(), self.fileno())
        if self._is_answer:
            raise OutputError(error if isinstance(error, OSError) else OSError(errno.EBADF, str(error)))


class Inert:
    """A stream in which nothing but colours acts on a terminal, whoever writes to it.

    Attributes:
        raw: the stream behind it, for whoever makes sure of that.
    """

    def __init__(self, raw: Stream) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        """Write a text, with all control characters but those for colours spelled out.

        Raises:
            OutputError: as `Stream.write`.
        """
        self.raw.write("".join(map(_inert, _COLOUR.split(text))))
        return len(text)


def _inert(text: str) -> str:
    if _COLOUR.fullmatch(text):
        return text
    return "".join(part if part in "\n\t" else visible(part) for part in re.split(r"([\n\t])", text))


def guard() -> None:
    """Put both streams in the place of Python's, for the rest of the process."""
    _fill()
    for name, is_answer in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if not isinstance(stream, Inert):
            setattr(sys, name, Inert(Stream(stream, is_answer=is_answer)))


def _fill() -> None:
    """Open what is closed of the standard streams, or a database gets their number and is written into."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(file, True)
    os.close(file)


def answer() -> Stream:
    """Return standard output, for text in which nothing acts on a terminal."""
    return _raw(sys.stdout, is_answer=True)


def remarks() -> Stream:
    """Return standard error, likewise."""
    return _raw(sys.stderr, is_answer=False)


def _raw(stream: TextIO | None, *, is_answer: bool) -> Stream:
    return stream.raw if isinstance(stream, Inert) else Stream(stream, is_answer=is_answer)
