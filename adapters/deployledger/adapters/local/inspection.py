"""Lists the models extracted on this machine, and reads them to detect damage."""

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from deployledger.adapters.local.folders import RevisionFolder, deployment_folders
from deployledger.domain.stored import Kind, Stored
from deployledger.service.files.inventory import files_below, stored_at
from deployledger.service.files.listing import encode_listing, list_files, tree_digest
from deployledger.service.files.reading import exists, read_stored, walk
from deployledger.serving import ModelFiles


def extracted_models(root: Path, *, read: bool) -> Iterator[Stored]:
    """Yield the models that are extracted below an orchestrator's root, and those that were set aside.

    The digest of an extracted model is that of the listing beside it: what it should be, is in the event log.
    """
    for deployment in deployment_folders(root):
        for revision in sorted(deployment.revisions()):
            folder = deployment.revision(revision)
            with contextlib.suppress(FileNotFoundError):  # it is being removed, or extracted
                if exists(folder.model):
                    stored = _extracted(folder, deployment.deployment_id, revision, read=read)
                    if exists(folder.model):  # it was not removed while it was read
                        yield stored
                for damaged in stored_at(folder.damaged_model, Kind.DAMAGED_FILE):
                    yield replace(damaged, size_bytes=sum(_sizes(folder.damaged_model)))


def _extracted(folder: RevisionFolder, deployment_id: UUID, revision: int, *, read: bool) -> Stored:
    sizes = list(_sizes(folder.model))
    digest, damage = "", []
    try:
        if exists(folder.listing):
            digest = tree_digest(read_stored(folder.listing))
            if read:
                damage = ModelFiles(folder.model, folder.listing, digest).damage()
        elif read:  # an earlier version extracted it, or the listing was removed: it is made again
            digest = tree_digest(encode_listing(list_files(folder.model)))
    except OSError as error:
        damage = [f"{error.filename or folder.model} cannot be read: {error.strerror or error}."]
    return Stored(
        Kind.EXTRACTED_MODEL,
        str(folder.model),
        sum(sizes),
        digest,
        file_count=len(sizes),
        deployment_id=deployment_id,
        revision=revision,
        damage=tuple(damage),
        files=files_below(folder.model),
    )


def _sizes(folder: Path) -> Iterator[int]:
    for _, status in walk(folder):
        if stat.S_ISREG(status.st_mode):
            yield status.st_size
