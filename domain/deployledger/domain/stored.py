"""Stored models: in the artifact store, in images, and in folders that they are served from."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

OTHER_TOOLS = "other tools"
"""The user of files that another program may have put there, or may need."""

File = tuple[int, int]
"""A file, whatever its names: the device that it is on, and its inode."""


class Kind(enum.StrEnum):
    """What is kept."""

    MODEL = "model"
    IMAGE = "image"
    IMAGE_INDEX = "image_index"
    EXTRACTED_MODEL = "extracted_model"
    UNUSED_FILE = "unused_file"
    DAMAGED_FILE = "damaged_file"


class Verdict(enum.Enum):
    """What becomes of something stored."""

    KEEP = enum.auto()
    """It is needed."""
    LEAVE = enum.auto()
    """It is not needed here, but another user of the home may need it."""
    LATER = enum.auto()
    """Only a step that is in progress may need it: it is marked, and freed once these steps are over."""
    FREE = enum.auto()
    """It is not needed."""


@dataclass(frozen=True)
class Stored:
    """Something that is kept on disk.

    Attributes:
        kind: what it is. An unused file is part of no model or image; a damaged one was set aside.
        path: where it is.
        size_bytes: how many bytes it has. Files that several share count for each of them.
        digest: the digest that names it, where it has one: of a model's files, of an image's manifest, or of
            the model that was extracted.
        file_count: how many files a model has.
        names: the names that an image has for other tools.
        deployment_id: whose extracted model it is.
        revision: which revision's.
        damage: what of it is not what it should be, a sentence each; found only if everything was read.
        users: the event logs that a model was stored for; `OTHER_TOOLS` for files of other programs.
        marked_by: those of them that found that they did not need it, unless a deployment did that was being
            fetched then; the ids of these deployments.
        changed_at: when a damaged file was set aside (UTC).
        files: how many bytes each of its files takes on the disk, which several may share.
    """

    kind: Kind
    path: str
    size_bytes: int
    digest: str = ""
    file_count: int | None = None
    names: tuple[str, ...] = ()
    deployment_id: UUID | None = None
    revision: int | None = None
    damage: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    marked_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changed_at: datetime | None = None
    files: Mapping[File, int] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "files"}
        return {
            **values,
            "marked_by": dict(self.marked_by),
            "deployment_id": self.deployment_id and str(self.deployment_id),
            "changed_at": self.changed_at and self.changed_at.isoformat(),
        }


class Decision(NamedTuple):
    """What becomes of something stored.

    Attributes:
        waits_for: if it is for later, which deployments (their ids) may need it.
        names: which names of an image that is left are to be removed: the log that decides gave them.
    """

    verdict: Verdict
    waits_for: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


Decide = Callable[[Sequence[Stored]], Sequence[Decision]]
"""Says what becomes of each of some things that are stored; it may block."""


@runtime_checkable
class KeepsFiles(Protocol):
    """What a client may also do: say what it keeps on this machine, and whether it is undamaged."""

    async def stored(self, *, read: bool) -> list[Stored]:
        """Return everything that is kept; with ``read``, read all of it and report what is damaged.

        Nothing is changed, and other processes may go on using it.
        """
        ...


@runtime_checkable
class FreesFiles(KeepsFiles, Protocol):
    """What a client that keeps files may also do: free those that nobody needs."""

    async def free(self, decide: Decide, user: str) -> None:
        """List everything as `stored` does, ask what becomes of it, and remove what is to be freed.

        Nothing is added between the question and the end. Being killed in between leaves something that is
        stored completely, or parts that the next call removes.

        Args:
            user: the event log that decides.
        """
        ...
