"""Getting the model's files out of its image, and out of the way when they are damaged."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deployledger.adapters.local.folders import RevisionFolder
from deployledger.domain.exceptions import DeploymentError
from deployledger.domain.logs import logger
from deployledger.domain.ports import ProvisionRequest
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.disk_space import check_room, disk_full, is_full
from deployledger.service.files.listing import FileEntry, encode_listing, list_files, tree_digest
from deployledger.service.files.private import make_folder
from deployledger.service.files.reading import exists
from deployledger.service.files.staging import remove
from deployledger.service.files.stopping import stoppable
from deployledger.service.files.writing import write_whole
from deployledger.serving import ModelDamagedError, ModelFiles

LOGGER = logger("artifacts")

ExtractModel = Callable[[str, Path], Sequence[FileEntry]]
"""Unpacks the image with this reference into a folder, which does not exist yet; says what its files are."""


class KeptModels(Protocol):
    """Where models are kept on the same disk, so that what serves can be links to their files."""

    def link(self, digest: str, destination: Path) -> Sequence[FileEntry] | None:
        """Make a folder of links to a model's files, and return what they are; None if that cannot be."""
        ...

    def adopt(self, folder: Path, entries: Sequence[FileEntry]) -> None:
        """Keep links to the files of a folder in place of those that are missing or damaged."""
        ...


@dataclass(frozen=True)
class Unpacking:
    """Where the files of a model come from: those that are kept, else its image, which nobody else writes to.

    Attributes:
        extract: unpacks an image.
        kept: what is kept on the same disk, if anything is.
    """

    extract: ExtractModel
    kept: KeptModels | None = None

    def unpack(self, request: ProvisionRequest, destination: Path) -> Sequence[FileEntry]:
        """Make ``destination`` with the model's files, all of which were hashed; return what they are.

        Files that are linked share their damage. So what is damaged is replaced from the image, here and
        where it is kept. A batch job of root, whom no mode keeps from writing, is given files of its own.
        """
        is_job = request.target.is_batch_job
        if self.kept is not None and not (is_job and os.geteuid() == 0):
            entries = self.kept.link(request.artifact.digest, destination)
            if entries is not None:
                return entries
            remove(destination)
        check_room(destination.parent, request.artifact.size_bytes)
        entries = self.extract(request.image.reference, destination)
        if self.kept is not None and tree_digest(encode_listing(entries)) == request.artifact.digest:
            self.kept.adopt(destination, entries)
        return entries


async def extracted_model(
    folder: RevisionFolder, request: ProvisionRequest, unpacking: Unpacking
) -> ModelFiles:
    """Return the revision's model and what it is checked against, extracting it if that has not been done.

    One that is there is not read: whoever loads it checks it. Cancellation stops the extraction, and
    takes effect once it has ended, so that its folder is not removed while it still writes there.

    Raises:
        DeploymentError: the image holds another model than the event log says (``artifact_damaged``).
        InsufficientStorageError: there is no room for it.
    """
    try:
        return await stoppable(_extract, folder, request, unpacking)
    except OSError as error:
        if is_full(error):
            raise disk_full(folder.path, error) from error
        raise


async def set_aside_if_damaged(folder: RevisionFolder, request: ProvisionRequest) -> None:
    """Read the revision's extracted model, and move it out of the way if it is damaged.

    Call it only while holding the deployment's lock. What was loaded from the files stays as it is.

    Raises:
        DeploymentError: it is damaged, and cannot be moved.
    """
    await stoppable(_set_aside_if_damaged, folder, request)


def files_of(folder: RevisionFolder, request: ProvisionRequest) -> ModelFiles:
    """Return where the revision's extracted model is, and what it is checked against."""
    return ModelFiles(folder.model, folder.listing, request.artifact.digest)


def _extract(folder: RevisionFolder, request: ProvisionRequest, unpacking: Unpacking) -> ModelFiles:
    _unlink(folder, request)
    make_folder(folder.path)
    files = files_of(folder, request)
    if exists(folder.model):
        try:
            files.check_sizes()
        except ModelDamagedError as error:
            if not _is_listed_again(folder, files):
                _set_aside(folder, request, str(error))
        if exists(folder.model):
            return files
    folder.remove_partial_models()
    listing = encode_listing(unpacking.unpack(request, folder.partial_model))
    if tree_digest(listing) != files.digest:
        raise DeploymentError(
            request.deployment_name,
            f"The image {request.image.reference} of {request.deployment_name!r} contains the model "
            f"{tree_digest(listing)} instead of {files.digest}.",
            reason=FailureReason.ARTIFACT_DAMAGED,
            hint="Update the deployment with its model URI to package the model again.",
        )
    write_whole(folder.listing, listing)  # first, because the model's folder says that both are there
    folder.partial_model.rename(folder.model)
    return files


def _is_listed_again(folder: RevisionFolder, files: ModelFiles) -> bool:
    """Return whether only the listing was damaged, or never made by an earlier version; it is made then."""
    try:
        listing = encode_listing(list_files(folder.model))
    except OSError:
        return False
    if tree_digest(listing) != files.digest:
        return False
    write_whole(folder.listing, listing)
    return True


def _set_aside_if_damaged(folder: RevisionFolder, request: ProvisionRequest) -> None:
    _unlink(folder, request)
    if not exists(folder.model):
        return
    try:
        files_of(folder, request).check()
    except ModelDamagedError as error:
        _set_aside(folder, request, str(error))


def _unlink(folder: RevisionFolder, request: ProvisionRequest) -> None:
    """Remove a link in place of the revision's folder: what it leads to is not ours to change."""
    if folder.path.is_symlink():
        target = folder.path.readlink()
        folder.path.unlink()
        LOGGER.warning(
            "%s: %s was a link to %s. The link was removed, and the model is extracted again.",
            request.deployment_name,
            folder.path,
            target,
        )


def _set_aside(folder: RevisionFolder, request: ProvisionRequest, what: str) -> None:
    try:
        remove(folder.damaged_model)
        folder.model.rename(folder.damaged_model)
    except OSError as error:
        raise DeploymentError(
            request.deployment_name,
            f"The model of {request.deployment_name!r} cannot be loaded: {what} "
            f"The damaged files could not be moved aside: {error.strerror}.",
            reason=FailureReason.ARTIFACT_DAMAGED,
            hint=f"Check that {folder.path} is writable and its disk healthy, then retry.",
        ) from error
    LOGGER.warning(
        "%s: %s The model is extracted from its image again; the damaged files are in %s.",
        request.deployment_name,
        what,
        folder.damaged_model,
    )
