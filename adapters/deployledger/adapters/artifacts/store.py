"""The content-addressed store of models' files."""

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

from deployledger.adapters.artifacts.blobs import Blobs, has_sha256
from deployledger.adapters.artifacts.folders import fill, holds_exactly
from deployledger.adapters.artifacts.listing import FileEntry, decode_listing, encode_listing, tree_digest
from deployledger.adapters.artifacts.refusals import changed, damaged, refused, storage_errors
from deployledger.adapters.artifacts.source import SourceFile, scan
from deployledger.adapters.artifacts.staging import locked, publish, staging_folder, sweep, sync_folder
from deployledger.domain.exceptions import ModelRegistryError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Artifact

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class LocalArtifactStore:
    """Keeps models' files below one folder of a local disk, each file once, by the sha256 of its contents.

    The digest of a model is the sha256 of its canonical listing; `deployledger.adapters.artifacts.listing`
    gives the exact encoding. Below ``root`` there are::

        blobs/sha256/<sha256 of a file>          the files, read-only
        listings/sha256/<sha256 of the listing>  what each model consists of
        folders/sha256/<sha256 of the listing>   the models' files under their own names (hard links)
        staging/                                 what is being written; a killed process leaves its part here

    Any number of threads and processes may use one ``root``. A listing is written after all of its files are
    durable, so a model is either there completely or not at all.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = Blobs(root / "blobs" / "sha256")
        self._listings = root / "listings" / "sha256"
        self._folders = root / "folders" / "sha256"
        self._staging = root / "staging"

    async def add(self, source: Path, *, resolved_uri: str, model_version: str | None = None) -> Artifact:
        """Read the file or folder ``source`` into the store, and return what it is.

        Memory use does not depend on the size of the model. Adding what is there already changes nothing.

        Raises:
            ModelRegistryError: the reason says whether the model does not exist (``model_not_found``), has
                no bytes (``model_empty``), cannot be read (``model_unreadable``), is not safe to read
                (``model_unsafe``), was written to meanwhile (``model_changed``), or whether the store could
                not be written (``storage_failed``). In each case the store has the models it had before.
        """
        entries = await asyncio.to_thread(self._add, source)
        return Artifact(
            digest=tree_digest(encode_listing(entries)),
            size_bytes=sum(entry.size for entry in entries),
            file_count=len(entries),
            resolved_uri=resolved_uri,
            model_version=model_version,
        )

    async def path_of(self, digest: str) -> Path | None:
        """Return a read-only folder that holds exactly the files of ``digest``, or None if unknown.

        Names and sizes are checked each time; `verify` checks the contents as well.

        Raises:
            ModelRegistryError: stored files are missing or have another size than they should
                (``storage_failed``).
        """
        return await asyncio.to_thread(self._path_of, digest)

    async def verify(self, digest: str) -> None:
        """Read every stored file of ``digest`` again, and return if all are what their digests say.

        Raises:
            ModelRegistryError: the digest is unknown (``model_not_found``), or files are missing or have
                other contents (``storage_failed``).
        """
        await asyncio.to_thread(self._verify, digest)

    def _add(self, source: Path) -> list[FileEntry]:
        files = scan(source)
        self._refuse_own_folder(source)
        with storage_errors(self._root):
            for folder in (self._blobs.folder, self._listings, self._folders, self._staging):
                folder.mkdir(parents=True, exist_ok=True)
            sweep(self._staging)
            with staging_folder(self._staging) as staging:
                # Nothing is published before all of it was read: a failure half-way must not use up the disk.
                entries, staged = self._blobs.stage(files, staging)
                if not _unchanged(source, files):
                    raise changed(str(source))
                self._blobs.publish(staged)
                self._publish_listing(encode_listing(entries), staging)
        return entries

    def _refuse_own_folder(self, source: Path) -> None:
        if Path(os.path.realpath(self._root)).is_relative_to(os.path.realpath(source)):
            raise refused(
                FailureReason.MODEL_UNSAFE,
                f"{str(source)!r} contains the artifact store itself.",
                hint="Give the folder that holds the model's files alone.",
            )

    def _publish_listing(self, listing: bytes, staging: Path) -> None:
        staged = staging / "listing"
        staged.write_bytes(listing)
        publish(staged, self._listings / tree_digest(listing).removeprefix("sha256:"))
        sync_folder(self._listings)

    def _path_of(self, digest: str) -> Path | None:
        with storage_errors(self._root):
            entries = self._entries(digest)
            if entries is None:
                return None
            folder = self._folder_of(digest)
            if not holds_exactly(folder, entries):
                self._materialise(folder, entries, digest)
            return folder

    def _materialise(self, folder: Path, entries: Sequence[FileEntry], digest: str) -> None:
        for entry in entries:
            if self._blobs.size(entry.sha256) != entry.size:
                raise damaged(digest, entry.path, [self._blobs.path(entry.sha256)])
        with locked(self._root / "lock"), staging_folder(self._staging) as staging:
            if holds_exactly(folder, entries):
                return  # another process made it while this one waited for the lock
            fill(staging / "new", entries, self._blobs.folder)
            if folder.exists():
                folder.chmod(0o755)
                folder.rename(staging / "old")
            (staging / "new").rename(folder)
            folder.chmod(0o555)

    def _verify(self, digest: str) -> None:
        with storage_errors(self._root):
            entries = self._entries(digest)
            if entries is None:
                raise ModelRegistryError(
                    f"The artifact store in {str(self._root)!r} has no model {digest!r}.",
                    status_code=404,
                    reason=FailureReason.MODEL_NOT_FOUND,
                    hint="Check the digest, and that the store is the one the model was deployed with.",
                )
            folder = self._folder_of(digest)
            for entry in entries:
                copies = [self._blobs.path(entry.sha256)]
                if folder.exists():
                    copies.append(folder / entry.path)
                if not all(has_sha256(copy, entry.sha256) for copy in copies):
                    raise damaged(digest, entry.path, [copies[0], folder])

    def _entries(self, digest: str) -> list[FileEntry] | None:
        known = _DIGEST.fullmatch(digest)
        if known is None:
            return None
        try:
            listing = (self._listings / known[1]).read_bytes()
        except FileNotFoundError:
            return None
        if tree_digest(listing) != digest:
            raise damaged(digest, "the listing", [self._listings / known[1]])
        return decode_listing(listing)

    def _folder_of(self, digest: str) -> Path:
        return self._folders / digest.removeprefix("sha256:")


def _unchanged(source: Path, files: Sequence[SourceFile]) -> bool:
    try:
        return scan(source) == files
    except ModelRegistryError:
        return False
