"""The content-addressed store of models' files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from deployledger.adapters.artifacts.folders import fill, holds_exactly
from deployledger.adapters.artifacts.freeing import Freeing
from deployledger.adapters.artifacts.inspection import Inspection
from deployledger.adapters.artifacts.onnx_weights import refuse_without_weights
from deployledger.adapters.artifacts.refusals import changed, damaged, describe, refused, storage_errors
from deployledger.adapters.artifacts.source import SourceFile, scan
from deployledger.adapters.artifacts.store_files import StoreFiles
from deployledger.domain.exceptions import ModelRegistryError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.stored import Decide, Stored
from deployledger.domain.values import Artifact
from deployledger.service.files.disk_space import check_size, disk_full, is_full
from deployledger.service.files.listing import (
    FileEntry,
    decode_listing,
    encode_listing,
    list_files,
    tree_digest,
)
from deployledger.service.files.locks import locked
from deployledger.service.files.private import folder_mode, make_folder, open_file
from deployledger.service.files.reading import exists, has_sha256, is_exhausted, is_folder, read_stored
from deployledger.service.files.staging import refuse_links, staging_folder, sweep
from deployledger.service.files.stopping import stoppable
from deployledger.service.files.writing import make_durable, move_aside, put, sync

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class LocalArtifactStore:
    """Keeps models' files below one folder of a local disk, each file once, by the sha256 of its contents.

    The digest of a model is the sha256 of its canonical listing; `deployledger.service.files.listing`
    gives the exact encoding; `StoreFiles` shows where everything is.

    Any number of threads and processes may use one ``root``. A listing is written after all of its files are
    durable, so a model is either there completely or not at all.

    Contents are hashed when they are stored, when the same model is stored again, and whenever they are
    packaged or linked to. What turns out damaged is moved to ``damaged/`` and never used again; storing the
    model again puts it back.

    Args:
        largest: how many bytes a model may have; None sets no limit.
    """

    def __init__(self, root: Path, *, largest: int | None = None) -> None:
        self._largest = largest
        self._files = StoreFiles(root)
        self._blobs = self._files.blobs

    async def add(
        self,
        source: Path,
        *,
        resolved_uri: str,
        model_version: str | None = None,
        user: str = "",
        take: bool = False,
    ) -> Artifact:
        """Add the file or folder ``source`` to the store, and return its artifact.

        Memory use does not depend on the size of the model. Adding a stored model changes nothing,
        but repairs damage.

        Args:
            user: the event log that the model is for; other logs then never have it freed.
            take: whether the files are the caller's own and are removed afterwards: they need not be copied.

        Raises:
            InsufficientStorageError: there is no room for it, or it is larger than allowed.
            ModelRegistryError: the reason says whether the model does not exist (``model_not_found``), has
                no bytes (``model_empty``), cannot be read (``model_unreadable``), is not safe to read
                (``model_unsafe``), was written to meanwhile (``model_changed``), or whether the store could
                not be written (``storage_failed``). In each case the store has the models it had before.
        """
        entries = await stoppable(self._add, source, user, take)
        return Artifact(
            digest=tree_digest(encode_listing(entries)),
            size_bytes=sum(entry.size for entry in entries),
            file_count=len(entries),
            resolved_uri=resolved_uri,
            model_version=model_version,
        )

    async def path_of(self, digest: str) -> Path | None:
        """Return a read-only folder that holds exactly the files of ``digest``, or None if unknown.

        Names and sizes are checked each time. The contents of files that are links to what is stored are
        not read: the reader checks them, or calls `set_aside_damaged` first.

        Raises:
            ModelRegistryError: the listing is damaged, or stored files are missing or have another size
                than they should (``artifact_damaged``).
        """
        return await stoppable(self._path_of, digest)

    async def set_aside_damaged(self, digest: str) -> list[str]:
        """Read every stored file of ``digest``, and move those that are damaged to ``damaged/``.

        Return each file of the model that is damaged or missing, and what happened to it; nothing if all
        are as they were stored, or the model is unknown. A listing is made again if the model's folder
        still has all of its files.

        Raises:
            ModelRegistryError: something is damaged, and cannot be moved (``artifact_damaged``).
        """
        return await stoppable(self._set_aside_damaged, digest)

    async def verify(self, digest: str) -> None:
        """Read every stored file of ``digest``, and return if all are what their digests say.

        Raises:
            ModelRegistryError: the digest is unknown (``model_not_found``), or files are missing or have
                other contents (``artifact_damaged``).
        """
        await stoppable(self._verify, digest)

    async def stored(self, *, read: bool) -> list[Stored]:
        """Return the models that are kept, files that are of none of them, and damaged files set aside.

        Args:
            read: whether to read every file and report what is damaged; otherwise only names and sizes are
                compared.

        Raises:
            ModelRegistryError: the store cannot be read (``storage_failed``).
        """
        return await stoppable(self._stored, read)

    async def free(self, decide: Decide, user: str) -> None:
        """Free models, their files, and what killed processes left; `deployledger.domain.stored.FreesFiles`.

        A model is gone with its listing. Its folder and files follow; the next call removes those that are
        left if this one is killed.

        Raises:
            ConfigurationError: a folder of the store is a symbolic link.
            ModelRegistryError: the store cannot be written (``storage_failed``).
        """
        await stoppable(self._free, decide, user)

    def link(self, digest: str, destination: Path) -> list[FileEntry] | None:
        """Make ``destination`` with links to the stored files of ``digest``, which are all hashed.

        Return what its files are, or None if the store does not have all of them undamaged, or they cannot
        be linked to from there. What is damaged stays where it is: `adopt` or `add` replaces it.

        Raises:
            InsufficientStorageError: the disk is full.
        """
        try:
            entries = self._entries(digest)
            if not entries:
                return None
            for entry in entries:
                target = destination / entry.path
                make_folder(target.parent)
                target.hardlink_to(self._blobs.path(entry.sha256))
                if not has_sha256(target, entry.sha256):
                    return None
        except ModelRegistryError:
            return None
        except OSError as error:
            if is_exhausted(error):
                raise
            if is_full(error):
                raise disk_full(destination, error) from error
            return None
        return entries

    def adopt(self, folder: Path, entries: Sequence[FileEntry]) -> None:
        """Replace what the store lacks of a model, or has damaged, by links to the files below ``folder``.

        Nobody may write to these files, which were just hashed. If they cannot be linked to, nothing is done.
        """
        with suppress(OSError, ModelRegistryError):
            self._make_folders()
            with staging_folder(self._files.staging) as staging:
                staged: dict[str, Path] = {}
                for number, entry in enumerate(entries):
                    if entry.sha256 in staged or self._blobs.is_undamaged(entry.sha256):
                        continue
                    copy = staging / str(number)
                    copy.hardlink_to(folder / entry.path)
                    make_durable(copy)
                    staged[entry.sha256] = copy
                if staged:
                    self._publish(entries, staged, staging, user="")
            self._path_of(tree_digest(encode_listing(entries)))  # its links to damaged files are replaced

    def _add(self, source: Path, user: str, take: bool) -> list[FileEntry]:
        files = scan(source)
        self._refuse_own_folder(source)
        if not source.is_dir():
            refuse_without_weights(files[0])
        check_size(sum(file.size for file in files), self._largest)
        with storage_errors(self._files.root):
            self._make_folders()
            sweep(self._files.staging)
            while True:
                with staging_folder(self._files.staging) as staging:
                    # Nothing is published before all was read: a failure half-way must not use up the disk.
                    entries, staged = self._blobs.stage(files, staging, take=take)
                    if not _unchanged(source, files):
                        raise changed(str(source))
                    if self._publish(entries, staged, staging, user=user):
                        return entries

    def _make_folders(self) -> None:
        for folder in (
            self._blobs.folder,
            self._files.listings,
            self._files.folders,
            self._files.staging,
        ):
            make_folder(folder)

    def _publish(
        self, entries: Sequence[FileEntry], staged: Mapping[str, Path], staging: Path, *, user: str
    ) -> bool:
        """Make staged files and their listing part of the store, at once for whoever frees what is unused.

        Return False if something that was there before, and so was not staged, was freed meanwhile.
        """
        for sha256 in staged:
            with suppress(OSError):  # where it cannot be kept, it is replaced
                self._blobs.set_aside_if_damaged(sha256)
        with locked(self._files.lock):
            if any(
                entry.sha256 not in staged and self._blobs.size(entry.sha256) is None for entry in entries
            ):
                return False
            self._blobs.publish(staged)
            listing = encode_listing(entries)
            if user:
                self._files.users.note(user, tree_digest(listing))
            self._publish_listing(listing, staging)
        return True

    def _refuse_own_folder(self, source: Path) -> None:
        if Path(os.path.realpath(self._files.root)).is_relative_to(os.path.realpath(source)):
            raise refused(
                FailureReason.MODEL_UNSAFE,
                f"{str(source)!r} contains the artifact store itself.",
                hint="Give the folder that holds the model's files alone.",
            )

    def _publish_listing(self, listing: bytes, staging: Path) -> None:
        staged = staging / "listing"
        with open(staged, "xb", opener=open_file) as file:
            file.write(listing)
        make_durable(staged)
        name = tree_digest(listing).removeprefix("sha256:")
        put(staged, self._files.listings / name, aside=self._files.damaged / f"{name}.listing")
        sync(self._files.listings)

    def _path_of(self, digest: str) -> Path | None:
        with storage_errors(self._files.root):
            entries = self._entries(digest)
            if entries is None:
                return None
            folder = self._folder_of(digest)
            if not holds_exactly(folder, entries, self._blobs):
                self._materialise(folder, entries, digest)
            return folder

    def _materialise(self, folder: Path, entries: Sequence[FileEntry], digest: str) -> None:
        for entry in entries:
            size = self._blobs.size(entry.sha256)
            if size != entry.size:
                blob = self._blobs.path(entry.sha256)
                problem = f"is missing, {blob}" if size is None else f"has {size} bytes, not {entry.size}"
                raise damaged(digest, f"{entry.path} {problem}")
        with locked(self._files.lock), staging_folder(self._files.staging) as staging:
            if holds_exactly(folder, entries, self._blobs):
                return  # another process made it while this one waited for the lock
            fill(staging / "new", entries, self._blobs.folder)
            if is_folder(folder):
                folder.chmod(folder_mode(folder.parent))
            if exists(folder):
                folder.rename(staging / "old")
            (staging / "new").rename(folder)
            folder.chmod(folder_mode(folder.parent) & ~0o222)

    def _stored(self, read: bool) -> list[Stored]:
        with storage_errors(self._files.root):
            return Inspection(self._files, read=read).run()

    def _free(self, decide: Decide, user: str) -> None:
        if not self._blobs.folder.is_dir():
            return
        with storage_errors(self._files.root):
            refuse_links(
                self._files.root,
                (
                    self._blobs.folder,
                    self._files.listings,
                    self._files.folders,
                    self._files.users.folder,
                    self._files.damaged,
                ),
            )
            sweep(self._files.staging)
            with locked(self._files.lock):
                stored = Inspection(self._files, read=False).run()
                Freeing(self._files, user).run(zip(stored, decide(stored), strict=True))

    def _verify(self, digest: str) -> None:
        entries = self._entries(digest)
        if entries is None:
            raise ModelRegistryError(
                f"The artifact store in {str(self._files.root)!r} has no model {digest!r}.",
                status_code=404,
                reason=FailureReason.MODEL_NOT_FOUND,
                hint="Check the digest, and that the store is the one the model was deployed with.",
            )
        for entry in entries:
            if not self._blobs.is_undamaged(entry.sha256):
                blob = self._blobs.path(entry.sha256)
                problem = "has changed since it was stored" if exists(blob) else "is missing"
                raise damaged(digest, f"{entry.path} {problem} ({blob})")
        folder = self._folder_of(digest)
        if exists(folder) and not holds_exactly(folder, entries, self._blobs):
            raise damaged(digest, f"the contents of folder {folder} have changed since they were stored")

    def _set_aside_damaged(self, digest: str) -> list[str]:
        problems = []
        try:
            entries = self._entries(digest)
        except ModelRegistryError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                raise
            with _moving(digest, "the listing"):
                problems.append(
                    f"the listing had changed since it was stored and was moved to {self._discard(digest)}"
                )
            entries = self._list_again(digest)
        for entry in {entry.sha256: entry for entry in entries or ()}.values():
            with _moving(digest, entry.path):
                aside = self._blobs.set_aside_if_damaged(entry.sha256)
            if aside is not None:
                problems.append(f"{entry.path} had changed since it was stored and was moved to {aside}")
            elif self._blobs.size(entry.sha256) is None:
                problems.append(f"{entry.path} is missing ({self._blobs.path(entry.sha256)})")
        return problems

    def _discard(self, digest: str) -> Path:
        """Move a damaged listing out of the way."""
        name = digest.removeprefix("sha256:")
        target = move_aside(self._files.listings / name, self._files.damaged / f"{name}.listing")
        sync(self._files.listings)
        return target

    def _list_again(self, digest: str) -> list[FileEntry] | None:
        """Make a listing again from the model's folder, if that still holds the files of the digest."""
        try:
            entries = list_files(self._folder_of(digest))
        except OSError:
            return None
        with storage_errors(self._files.root):
            if tree_digest(encode_listing(entries)) != digest:
                return None
            with staging_folder(self._files.staging) as staging:
                self._publish_listing(encode_listing(entries), staging)
            return entries

    def _entries(self, digest: str) -> list[FileEntry] | None:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            return None
        path = self._files.listings / match[1]
        with storage_errors(self._files.root):
            try:
                listing = read_stored(path)
            except FileNotFoundError:
                return None
            except OSError as error:
                if is_exhausted(error):
                    raise
                raise damaged(digest, f"the listing {path} cannot be read: {describe(error)}") from error
        if tree_digest(listing) != digest:
            raise damaged(digest, f"the listing {path} has changed since it was stored")
        return decode_listing(listing)

    def _folder_of(self, digest: str) -> Path:
        return self._files.folders / digest.removeprefix("sha256:")


@contextmanager
def _moving(digest: str, what: str) -> Iterator[None]:
    """Turn an `OSError` of moving a damaged file out of the way into a typed error."""
    try:
        yield
    except OSError as error:
        raise damaged(
            digest, f"{what} has changed since it was stored and cannot be moved aside: {describe(error)}"
        ) from error


def _unchanged(source: Path, files: Sequence[SourceFile]) -> bool:
    try:
        return scan(source) == files
    except ModelRegistryError:
        return False
