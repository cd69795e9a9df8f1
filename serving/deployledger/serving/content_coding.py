"""Compressed bodies: the codings of ``Content-Encoding`` and ``Accept-Encoding``, RFC 9110 section 8.4."""

import sys
import zlib
from collections.abc import Sequence
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Buffer = bytes | bytearray

# RFC 9659 limits the window of the coding, and with it the memory that a decoder needs, to 8 MiB.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_GZIP_WBITS, _ZLIB_WBITS = 31, 15  # as zlib calls the two formats

CODINGS = ("zstd", "gzip", "deflate")
"""The supported codings; of those that a client prefers equally, the first one is used."""

# A smaller response fits into one packet anyway.
_SMALLEST_COMPRESSED = 1_400
_SAMPLE = 16_384
_WORTHWHILE = 0.8


class InvalidCodingError(ValueError):
    """A body is not encoded as its ``Content-Encoding`` says."""


class DecompressedTooLargeError(ValueError):
    """A body is larger than allowed once it is decompressed."""


def decompress(body: Buffer, coding: str, *, limit: int) -> bytes:
    """Return a body decompressed, without ever holding much more than ``limit`` bytes.

    Raises:
        InvalidCodingError: it is truncated, or not of this coding.
        DecompressedTooLargeError: it would have more than ``limit`` bytes.
    """
    decompressor = _decompressor(coding)
    try:
        content: bytes = decompressor.decompress(body, limit + 1)
    except (zlib.error, zstd.ZstdError) as error:
        raise InvalidCodingError(f"the body is not {coding} data") from error
    if len(content) > limit:
        raise DecompressedTooLargeError
    if not decompressor.eof:
        raise InvalidCodingError(f"the body is truncated: its {coding} data have no end")
    if decompressor.unused_data:  # several parts are allowed, but millions of them would take hours
        raise InvalidCodingError(f"the body continues after the end of its {coding} data")
    return content


def compress(parts: Sequence[bytes | memoryview], coding: str) -> bytes | None:
    """Compress a body, for speed rather than size; return None if that would hardly make it smaller."""
    if sum(map(len, parts)) < _SMALLEST_COMPRESSED:
        return None
    sample = max(parts, key=len)[:_SAMPLE]
    if len(_compressed([sample], coding)) > _WORTHWHILE * len(sample):
        return None
    return _compressed(parts, coding)


def negotiate(accept_encoding: str) -> str | None:
    """Return the coding that an ``Accept-Encoding`` header prefers; None for no compression."""
    qualities = dict(map(_quality, accept_encoding.lower().split(",")))
    default = qualities.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: qualities.get(coding, default))
    quality = qualities.get(best, default)
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else None


def _quality(preference: str) -> tuple[str, float]:
    coding, _, parameter = preference.partition(";")
    name, _, value = parameter.partition("=")
    try:
        return coding.strip(), float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return coding.strip(), 0.0


def _decompressor(coding: str) -> Any:
    if coding == "zstd":
        return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    return zlib.decompressobj(_GZIP_WBITS if coding == "gzip" else _ZLIB_WBITS)


def _compressed(parts: Sequence[bytes | memoryview], coding: str) -> bytes:
    compressor: Any
    if coding == "zstd":
        compressor = zstd.ZstdCompressor(level=1)
    else:
        compressor = zlib.compressobj(level=1, wbits=_GZIP_WBITS if coding == "gzip" else _ZLIB_WBITS)
    return b"".join([*map(compressor.compress, parts), compressor.flush()])
