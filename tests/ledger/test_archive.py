"""Evidence is one ZIP file: whatever else a ZIP file can have in it, other programs could show."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from deployledger.audit.evidence.archive import UnreadableEvidenceError, opened
from deployledger.audit.evidence.verification import verify_evidence
from deployledger.audit.keys import Verifier

OLD = Path(__file__).parents[1] / "data" / "evidence-1"
"""Evidence in format 1, as the software that knew no other one wrote it."""

Rewrite = Callable[[zipfile.ZipInfo], object]


def again(
    content: bytes, change: Rewrite = lambda _: None, *, comment: bytes = b"", zip64: bool = False
) -> bytes:
    """Return a ZIP file with the same files, whose entries were changed."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            change(info)
            with new.open(info, "w", force_zip64=zip64) as file:
                file.write(data)
        new.comment = comment
    return written.getvalue()


def attributes(**values: object) -> Rewrite:
    def change(info: zipfile.ZipInfo) -> None:
        if info.filename == "report.html":
            for name, value in values.items():
                setattr(info, name, value)

    return change


def other_path(info: zipfile.ZipInfo) -> None:
    """Let programs that know Unicode paths (0x7075) unpack the report under another name."""
    if info.filename == "report.html":
        name = b"../../etc/cron.d/report"
        field = struct.pack("<BL", 1, zlib.crc32(info.filename.encode())) + name
        info.extra = struct.pack("<HH", 0x7075, len(field)) + field


def with_descriptors(content: bytes) -> bytes:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.written += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(pipe, "w") as new:
        for info in old.infolist():
            new.writestr(info, old.read(info))
    return bytes(pipe.written)


def insert(content: bytes, place: int, data: bytes, *, behind: str) -> bytes:
    """Insert bytes into a ZIP file, and let its list say where the files then are."""
    directory = content.index(b"PK\1\2")
    moved = bytearray(content[:place] + data + content[place:])
    position = directory + len(data)
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        if info.header_offset >= place:
            struct.pack_into("<L", moved, position + 42, info.header_offset + len(data))
        if info.filename == behind:
            for where in (position + 20, info.header_offset + 18):
                struct.pack_into("<L", moved, where, info.compress_size + len(data))
        position += 46 + len(info.filename) + len(info.extra) + len(info.comment)
    struct.pack_into("<L", moved, len(moved) - 6, directory + len(data))
    return bytes(moved)


def second_file(content: bytes) -> int:
    return content.index(b"PK\3\4", 4)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "an extra field": lambda it: again(it, attributes(extra=b"\x99\x99\x02\x00hi")),
    "a Unicode path": lambda it: again(it, other_path),
    "a comment of a file": lambda it: again(it, attributes(comment=b"all of it is true")),
    "a comment of the archive": lambda it: again(it, comment=b"all of it is true"),
    "another time": lambda it: again(it, attributes(date_time=(2026, 3, 3, 12, 0, 0))),
    "a mode": lambda it: again(it, attributes(external_attr=(stat.S_IFREG | 0o4755) << 16)),
    "no mode": lambda it: again(it, attributes(external_attr=0)),
    "attributes of DOS": lambda it: again(it, attributes(external_attr=(stat.S_IFREG | 0o644) << 16 | 2)),
    "internal attributes": lambda it: again(it, attributes(internal_attr=1)),
    "another system": lambda it: again(it, attributes(create_system=0)),
    "another version": lambda it: again(it, attributes(create_version=63)),
    "one file stored": lambda it: again(it, attributes(compress_type=zipfile.ZIP_STORED)),
    "ZIP64": lambda it: again(it, zip64=True),
    "descriptors behind the contents": with_descriptors,
    "something in front": lambda it: b"#!/bin/sh\n" + it,
    "something at the end": lambda it: it + b"more",
    "something between two files": lambda it: insert(it, second_file(it), b"hidden", behind=""),
    "something behind a content": lambda it: insert(it, second_file(it), b"hidden", behind="events.jsonl"),
    "something before the list": lambda it: insert(it, it.index(b"PK\1\2"), b"hidden", behind=""),
    "the name of one file in front of its content": lambda it: it.replace(b"report.html", b"REPORT.html", 1),
    "a flag that the name is UTF-8": lambda it: flagged(it, 0x800),
    "a flag of compressing": lambda it: flagged(it, 0x2),
    "the files in another order": lambda it: reordered(it),
}


def flagged(content: bytes, flag: int) -> bytes:
    changed = bytearray(content)
    for header, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        struct.pack_into("<H", changed, content.index(header) + place, flag)
    return bytes(changed)


def reordered(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for info in reversed(old.infolist()):
            new.writestr(info, old.read(info))
    return written.getvalue()


@pytest.mark.parametrize("name", FORGERIES)
def test_what_a_zip_file_has_besides_its_files_is_found(name: str, tmp_path: Path) -> None:
    honest, path = (OLD / "range.zip").read_bytes(), tmp_path / "forged.zip"
    forged = FORGERIES[name](honest)
    assert forged != honest
    path.write_bytes(forged)
    found = verify_evidence(path, Verifier.load(OLD / "owner.pub"))
    assert [it.state for it in found.checks][:2] == ["failed", "passed"], "signed it is, as before"


def test_a_file_that_was_written_again_as_it_was_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "again.zip"
    path.write_bytes(again((OLD / "range.zip").read_bytes()))
    assert verify_evidence(path, Verifier.load(OLD / "owner.pub")).is_verified


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 3 << 20, (3 << 20) + 77])
def test_a_large_content_takes_up_all_that_is_there_for_it(size: int, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (("zeros", bytes(size)), ("noise", os.urandom(size))):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            file.writestr(info, content)
    with opened(path) as archive:
        assert archive.problems == []


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + bytes(17), b"PK\5\6" + b"\xff" * 18])
def test_what_is_no_zip_file_is_not_looked_at(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "none.zip"
    path.write_bytes(content)
    with pytest.raises(UnreadableEvidenceError, match="not a ZIP file"), opened(path):
        pass
