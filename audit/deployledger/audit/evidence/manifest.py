"""The manifest of evidence: the selection, and the digest of every other file."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from deployledger.audit.evidence.cloud_events import read_time
from deployledger.domain.timestamps import rfc3339

VERSION = 2
"""The newest version of the format that this software knows; docs/evidence.md says what changed in it."""

MANIFEST = "manifest.txt"
EVENTS = "events.jsonl"
PROOFS = "proofs.jsonl"
BOUNDS = "bounds.jsonl"
CONSISTENCY = "consistency.jsonl"
CHECKPOINT = "checkpoint.txt"
KEY = "key.pub"
README = "README.md"
REPORT = "report.html"
MAPPING = "MAPPING.md"

_ARCHIVED = (EVENTS, PROOFS, BOUNDS, CONSISTENCY, CHECKPOINT, KEY, REPORT, README, MAPPING, MANIFEST)
"""In which order the files are in the ZIP file, those that there are."""

_TITLE = "deployledger evidence"
_MEMBER = re.compile(r"([0-9a-f]{64})  (0|[1-9][0-9]{0,15})  ([A-Za-z0-9._-]{1,100})")
_NOTHING = "-"


class Member(NamedTuple):
    """One of the files: its SHA-256 in hexadecimal digits, its size in bytes, and its name."""

    sha256: str
    size: int
    name: str


@dataclass(frozen=True)
class EvidenceSelection:
    """Which events were taken out of the log: those about a deployment, or those recorded in a range.

    Attributes:
        first: the position of the first event.
        last: that of the last one; one less than ``first`` for a range in which nothing happened.
        deployment_id: the deployment, or None for a range.
        name: the deployment's name, after the last of the events.
        since: the range's begin, or None: from the first event on.
        until: the range's end, which is not in it, or None: up to the checkpoint.
    """

    first: int
    last: int
    deployment_id: UUID | None = None
    name: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_range(self) -> bool:
        """Whether it is every event of a range."""
        return self.deployment_id is None

    def beside(self, size: int) -> list[int]:
        """Return the positions right before and after a range, in a log of so many events."""
        if not self.is_range:
            return []
        return [position for position in (self.first - 1, self.last + 1) if 1 <= position <= size]

    def __str__(self) -> str:
        if self.deployment_id is not None:
            return f"deployment {self.name or _NOTHING} ({self.deployment_id})"
        since = f"since {rfc3339(self.since)}" if self.since else "from the beginning on"
        until = f"before {rfc3339(self.until)}" if self.until else "up to the checkpoint"
        return f"everything that was recorded {since}, {until}"


class MalformedManifestError(ValueError):
    """A manifest is not one."""


class NewerFormatError(ValueError):
    """A manifest was written by newer software."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


@dataclass(frozen=True)
class Manifest:
    """What a file of evidence says of itself.

    Attributes:
        origin: which ledger; the name of the key that signed.
        size: the size of the checkpoint.
        root: the root of the checkpoint, 32 bytes.
        selection: which events.
        events: how many there are.
        members: the digests of all the other files.
        version: of the format.
    """

    origin: str
    size: int
    root: bytes
    selection: EvidenceSelection
    events: int
    members: tuple[Member, ...]
    version: int = VERSION

    @property
    def is_continuing(self) -> bool:
        """Whether the evidence has proofs that the log continues earlier checkpoints."""
        return self.version > 1 and any(member.name == CONSISTENCY for member in self.members)

    def __str__(self) -> str:
        selection = self.selection
        if selection.deployment_id is not None:
            what = f"deployment {selection.deployment_id} {json.dumps(selection.name)}"
        else:
            bounds = (selection.since, selection.until)
            what = f"range {' '.join(rfc3339(bound) if bound else _NOTHING for bound in bounds)}"
        lines = [
            _TITLE,
            f"version {self.version}",
            f"origin {self.origin}",
            f"checkpoint {self.size} {base64.b64encode(self.root).decode()}",
            what,
            f"positions {selection.first} {selection.last}",
            f"events {self.events}",
            *(f"{member.sha256}  {member.size}  {member.name}" for member in self.members),
        ]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> "Manifest":
        """Return the manifest in the text of a signed note.

        Raises:
            NewerFormatError: if newer software wrote it.
            MalformedManifestError: if it is none.
        """
        lines = text.split("\n")
        if lines[0] != _TITLE or len(lines) < 8:
            raise MalformedManifestError("it is not an evidence manifest")
        version = re.fullmatch(r"version ([1-9][0-9]{0,8})", lines[1])
        if version and int(version[1]) > VERSION:
            raise NewerFormatError(int(version[1]))
        try:
            manifest = _parsed(lines, int(version[1]) if version else VERSION)
        except (ValueError, binascii.Error) as error:
            raise MalformedManifestError(f"it is malformed: {error}") from error
        if str(manifest) != text:
            raise MalformedManifestError("it is malformed: it is not in the canonical form")
        return manifest


def files(selection: EvidenceSelection, *, is_continuing: bool) -> tuple[str, ...]:
    """Return the names of the files that evidence has, in the order in which the manifest lists them."""
    bounds = (BOUNDS,) if selection.is_range else ()
    consistency = (CONSISTENCY,) if is_continuing else ()
    return (README, REPORT, MANIFEST, CHECKPOINT, KEY, EVENTS, PROOFS, *bounds, *consistency, MAPPING)


def in_archive(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of files in the order in which the ZIP file has them."""
    return tuple(sorted(names, key=_ARCHIVED.index))


def _parsed(lines: list[str], version: int) -> Manifest:
    words = [line.split(" ") for line in lines[:7]]
    first, last = _numbers(words[5], "positions", 2)
    (events,) = _numbers(words[6], "events", 1)
    (size,) = _numbers(words[3][:2], "checkpoint", 1)
    root = base64.b64decode(words[3][2] if len(words[3]) > 2 else "", validate=True)
    if words[4][0] == "deployment" and len(words[4]) > 2:
        name = json.loads(lines[4].split(" ", 2)[2])
        if not isinstance(name, str):
            raise ValueError("the deployment's name is not text")
        selection = EvidenceSelection(first, last, UUID(words[4][1]), name)
    elif words[4][0] == "range" and len(words[4]) == 3:
        since, until = (None if word == _NOTHING else read_time(word) for word in words[4][1:])
        selection = EvidenceSelection(first, last, since=since, until=until)
    else:
        raise ValueError("it does not say what was selected")
    origin, members = lines[2].removeprefix("origin "), _members(lines[7:-1])
    return Manifest(origin, size, root, selection, events, members, version)


def _numbers(words: list[str], name: str, count: int) -> list[int]:
    if (
        words[0] != name
        or len(words) != count + 1
        or not all(re.fullmatch("[0-9]{1,19}", word) for word in words[1:])
    ):
        raise ValueError(f"it has no {name}")
    return [int(word) for word in words[1:]]


def _members(lines: Iterable[str]) -> tuple[Member, ...]:
    members: dict[str, Member] = {}
    for line in lines:
        match = _MEMBER.fullmatch(line)
        if not match or match[3] in members:
            raise ValueError(f"{line[:80]!r} is not the digest of a file")
        members[match[3]] = Member(match[1], int(match[2]), match[3])
    return tuple(members.values())
