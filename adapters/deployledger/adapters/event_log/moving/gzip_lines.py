"""The lines of a compressed file, read in pieces: neither a long file nor a bad one fills the memory."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple, Self

from deployledger.adapters.event_log.moving.lines import LONGEST_LINE, BadFileError

_READ_BYTES = 1 << 18
_UNPACKED_BYTES = 1 << 20
_WITH_GZIP_HEADER = 31


class Block(NamedTuple):
    """Some lines of a file.

    Attributes:
        lines: the lines, without their ends.
        end: where in the file a complete gzip member ends with them, if one does.
    """

    lines: list[bytes]
    end: int | None


def blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield the lines of a file that consists of gzip members.

    Raises:
        BadFileError: if it is compressed in no such way, is damaged, or ends too early.
    """
    unpacker = zlib.decompressobj(_WITH_GZIP_HEADER)
    packed, taken = b"", 0
    rest: list[bytes] = []  # pieces of a line that goes on
    is_begun, is_within = False, False
    while packed or (packed := file.read(_READ_BYTES)):
        try:
            unpacked = unpacker.decompress(packed, _UNPACKED_BYTES)
        except zlib.error as error:
            if is_begun:
                raise BadFileError(f"the compressed data is damaged ({error})") from error
            raise BadFileError("it is no export of an event log: those are compressed with gzip") from error
        left = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        taken += len(packed) - len(left)
        packed, is_begun, is_within = left, True, not unpacker.eof
        rest.append(unpacked)
        lines: list[bytes] = []
        if b"\n" in unpacked:
            *lines, last = b"".join(rest).split(b"\n")
            rest = [last]
        if sum(map(len, rest)) > LONGEST_LINE:
            raise BadFileError(f"a line is longer than {LONGEST_LINE:,} bytes")
        is_end = unpacker.eof and not any(rest)
        if lines or is_end:
            yield Block(lines, taken if is_end else None)
        if unpacker.eof:
            unpacker = zlib.decompressobj(_WITH_GZIP_HEADER)
    if is_within or any(rest) or not is_begun:
        raise BadFileError("the file ends here, and is not complete")


class NumberedLines:
    """The lines of a file, one after the other; a thread unpacks the next ones meanwhile.

    Attributes:
        number: which line was returned last, counted from 1.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._blocks = blocks(file)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deployledger-unpack")
        self._lines = self._in_turn()

    def _in_turn(self) -> Iterator[bytes]:
        ahead = self._thread.submit(next, self._blocks, None)
        while block := ahead.result():
            ahead = self._thread.submit(next, self._blocks, None)
            yield from block.lines

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            line = next(self._lines)
        except BadFileError as error:
            raise BadFileError(f"behind line {self.number} {error}" if self.number else str(error)) from error
        self.number += 1
        return line

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
