"""Says which models are extracted on this machine, and reads them all to find what is damaged."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from deployledger.adapters.local.folders import RevisionFolder, deployment_folders
from deployledger.adapters.model_files.checking import ModelFiles, list_files
from deployledger.adapters.model_files.listing import encode_listing, tree_digest
from deployledger.domain.stored import Kind, Stored


def extracted_models(root: Path, *, read: bool) -> Iterator[Stored]:
    """Yield the models that are extracted below an orchestrator's root, and those that were set aside.

    The digest of an extracted model is that of the listing beside it: what it should be, is in the event log.
    """
    for deployment in deployment_folders(root):
        for revision in sorted(deployment.revisions()):
            folder = deployment.revision(revision)
            with contextlib.suppress(FileNotFoundError):  # it is being removed, or extracted
                if folder.model.exists():
                    stored = _extracted(folder, deployment.deployment_id, revision, read=read)
                    if folder.model.exists():  # it was not removed while it was read
                        yield stored
                if folder.damaged_model.exists():
                    yield Stored(
                        Kind.DAMAGED_FILE, str(folder.damaged_model), sum(_sizes(folder.damaged_model))
                    )


def _extracted(folder: RevisionFolder, deployment_id: UUID, revision: int, *, read: bool) -> Stored:
    sizes = list(_sizes(folder.model))
    digest, damage = "", []
    if folder.listing.exists():
        digest = tree_digest(folder.listing.read_bytes())
        if read:
            damage = ModelFiles(folder.model, folder.listing, digest).damage()
    elif read:  # an earlier version extracted it
        try:
            digest = tree_digest(encode_listing(list_files(folder.model)))
        except OSError as error:
            damage = [f"{folder.model} cannot be read: {error}."]
    return Stored(
        Kind.EXTRACTED_MODEL,
        str(folder.model),
        sum(sizes),
        digest,
        file_count=len(sizes),
        deployment_id=deployment_id,
        revision=revision,
        damage=tuple(damage),
    )


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.stat().st_size
