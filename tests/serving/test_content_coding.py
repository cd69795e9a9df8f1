"""Compressed bodies: what is decompressed, what is refused, and which coding an answer has."""

import gzip
import zlib
from hashlib import sha256

import pytest

from deployledger.serving.content_coding import (
    CODINGS,
    DecompressedTooLargeError,
    InvalidCodingError,
    compress,
    decompress,
    negotiate,
)

TEXT = b"tensors, tensors, tensors; " * 200


@pytest.mark.parametrize("coding", CODINGS)
class TestDecompression:
    def test_what_was_compressed_comes_back(self, coding: str) -> None:
        compressed = compress([TEXT[:100], memoryview(TEXT)[100:]], coding)
        assert compressed is not None
        assert decompress(compressed, coding, limit=len(TEXT)) == TEXT

    def test_damaged_bodies_are_refused(self, coding: str) -> None:
        compressed = compress([TEXT[:100], memoryview(TEXT)[100:]], coding)
        assert compressed is not None
        for damaged in (b"", compressed[:-1], compressed[:10], b"x" + compressed, compressed + b"x"):
            with pytest.raises(InvalidCodingError):
                decompress(damaged, coding, limit=len(TEXT))

    def test_one_byte_more_than_allowed_is_refused(self, coding: str) -> None:
        compressed = compress([TEXT[:100], memoryview(TEXT)[100:]], coding)
        assert compressed is not None
        with pytest.raises(DecompressedTooLargeError):
            decompress(compressed, coding, limit=len(TEXT) - 1)


def test_a_body_has_one_part() -> None:
    with pytest.raises(InvalidCodingError, match="continues after the end"):
        decompress(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", limit=2)


def test_deflate_is_the_zlib_format() -> None:
    assert decompress(zlib.compress(TEXT), "deflate", limit=len(TEXT)) == TEXT


def test_only_what_becomes_smaller_is_compressed() -> None:
    assert compress([TEXT[:1_000]], "gzip") is None
    assert compress([TEXT[:100], b"".join(sha256(bytes([n])).digest() for n in range(200))], "gzip") is None


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip; q=0", None),
        ("*", "zstd"),
        ("zstd;q=0, *", "gzip"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=nonsense", None),
        ("gzip;q=nan", None),
        (";,=,;;", None),
    ],
)
def test_the_coding_that_a_client_prefers(accepted: str, coding: str | None) -> None:
    assert negotiate(accepted) == coding
