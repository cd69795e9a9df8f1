"""A log with some deployments in it, evidence taken out of it, and somebody who changes the evidence."""

import base64
import json
import stat
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.audit.evidence import cloud_events, readme, report
from deployledger.audit.evidence.cloud_events import NotCanonicalError
from deployledger.audit.evidence.manifest import (
    EVENTS,
    MANIFEST,
    README,
    REPORT,
    Manifest,
    Member,
)
from deployledger.audit.evidence.story import Story
from deployledger.audit.keys import Signer
from deployledger.audit.signed_notes import opened, sign
from deployledger.domain import event_log
from deployledger.domain.events import Event
from deployledger.domain.names import NameReservation
from tests.domain.given import (
    OTHER_ARTIFACT,
    OTHER_IMAGE,
    SERVING,
    Happening,
    context,
    failed,
    fetched,
    history,
    packaged,
    provisioned,
    requested,
    update_requested,
)

IRIS = UUID("d0000000-0000-4000-8000-000000000001")
ROSE = UUID("d0000000-0000-4000-8000-000000000002")


def updated(name: str = "iris") -> tuple[Happening, ...]:
    """Return a history in which a second revision replaces the first one, and a third one fails."""
    return (
        requested(name=name),
        *SERVING[1:],
        update_requested(name=name),
        fetched(2, OTHER_ARTIFACT),
        packaged(2, OTHER_IMAGE),
        provisioned(2, "http://two"),
        update_requested(3, name=name),
        failed(3),
    )


def fill(log: DatabaseEventLog) -> None:
    """Add two deployments, whose events alternate, and the reservations of their names."""
    log.append(reserved("iris", IRIS))
    log.append(reserved("rose", ROSE))
    histories = history(*updated(), stream=IRIS), history(*updated("rose"), stream=ROSE)
    for events in zip(*histories, strict=True):
        for event in events:
            log.append([event])


def reserved(name: str, deployment_id: UUID) -> Sequence[Event]:
    reservation = NameReservation(name)
    reservation.reserve(deployment_id, by=context())
    return reservation.collect_events()


def recorded_at(log: DatabaseEventLog, position: int) -> datetime:
    found = event_log.recorded_at(log, position)
    assert found is not None
    return found


@dataclass
class Evidence:
    """The files of some evidence, which can be changed.

    Attributes:
        members: the files.
        signer: the key that signed it.
        modes: the kinds of files, where they are not regular ones.
        also: more files, whose names may be there already.
    """

    members: dict[str, bytes]
    signer: Signer
    modes: dict[str, int] = field(default_factory=dict)
    also: list[tuple[str, bytes]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, signer: Signer) -> "Evidence":
        with zipfile.ZipFile(path) as file:
            return cls({it: file.read(it) for it in file.namelist()}, signer)

    def write(self, path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
        with zipfile.ZipFile(path, "w", compression) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name that is there twice
            for name, content in (*self.members.items(), *self.also):
                info = zipfile.ZipInfo(name)
                info.compress_type = compression
                info.external_attr = (self.modes.get(name, stat.S_IFREG) | 0o644) << 16
                file.writestr(info, content)
        return path

    def lines(self, name: str) -> list[Any]:
        return [json.loads(it) for it in self.members[name].splitlines()]

    def put(self, name: str, lines: Sequence[Any]) -> None:
        self.members[name] = b"".join(compact(it) + b"\n" for it in lines)

    def edit(self, name: str, line: int, change: Callable[[dict[str, Any]], Any]) -> None:
        lines = self.lines(name)
        change(lines[line])
        self.put(name, lines)

    def manifest(self) -> Manifest:
        text, _ = opened(self.members[MANIFEST], [self.signer.verifier])
        return Manifest.parse(text)

    def sign_again(self, signer: Signer | None = None, *, with_pages: bool = True, **changes: Any) -> None:
        """Make a manifest, and the pages, that fit the other files, as who has the key could."""
        said = self.manifest()
        if with_pages:
            self._make_pages(replace(said, **changes))
        fields = {it: getattr(said, it) for it in ("origin", "size", "root", "selection", "events")}
        members = tuple(
            Member(sha256(self.members[it.name]).hexdigest(), len(self.members[it.name]), it.name)
            for it in said.members
            if it.name in self.members
        )
        again = Manifest(**{**fields, "members": members, "version": said.version, **changes})
        self.members[MANIFEST] = sign(str(again), signer or self.signer).encode()

    def _make_pages(self, said: Manifest) -> None:
        story = Story()
        for line in self.members[EVENTS].splitlines() if EVENTS in self.members else ():
            with suppress(NotCanonicalError):
                story.add(cloud_events.decode(line, said.origin))
        made = {
            README: readme.readme(said.selection, said.origin, is_continuing=said.is_continuing),
            REPORT: report.render(story, said.selection, said.size, said.root, self.signer.verifier),
        }
        self.members |= {name: page for name, page in made.items() if name in self.members}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def stored(line: dict[str, Any], **changes: Any) -> None:
    """Change what an event says, and what is stored of it likewise."""
    line["data"] |= changes
    line["storedstate"] = base64.b64encode(compact(line["data"])).decode()
    del line["data"]
    line["data"] = json.loads(base64.b64decode(line["storedstate"]))
