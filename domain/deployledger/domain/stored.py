"""What is kept on disk of models: by the artifact store, in images, and where they are served from."""

import enum
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from uuid import UUID


class Kind(enum.StrEnum):
    """What is kept."""

    MODEL = "model"
    IMAGE = "image"
    IMAGE_INDEX = "image_index"
    EXTRACTED_MODEL = "extracted_model"
    UNUSED_FILE = "unused_file"
    DAMAGED_FILE = "damaged_file"


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


@runtime_checkable
class KeepsFiles(Protocol):
    """What a client may also do: say what it keeps on this machine, and whether it is undamaged."""

    async def stored(self, *, read: bool) -> list[Stored]:
        """Return everything that is kept; with ``read``, read all of it and report what is damaged.

        Nothing is changed, and other processes may go on using it.
        """
        ...
