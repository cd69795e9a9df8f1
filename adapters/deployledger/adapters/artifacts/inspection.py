"""Lists the contents of the artifact store, and reads them to detect damage."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from deployledger.adapters.artifacts.folders import holds_exactly
from deployledger.adapters.artifacts.refusals import describe
from deployledger.adapters.artifacts.store_files import StoreFiles
from deployledger.domain.stored import OTHER_TOOLS, File, Kind, Stored
from deployledger.service.files.inventory import allocated, entries_of, files_below, stored_at
from deployledger.service.files.listing import FileEntry, decode_listing, tree_digest
from deployledger.service.files.locks import locked
from deployledger.service.files.reading import exists, file_status, is_named_by_digest, read_stored


class Inspection:
    """One look at everything in the store.

    Args:
        read: whether contents are read and compared with their digests, each file once.
    """

    def __init__(self, files: StoreFiles, *, read: bool) -> None:
        self._files = files
        self._blobs = files.blobs
        self._read = read
        self._is_undamaged: dict[str, bool] = {}

    def run(self) -> list[Stored]:
        """Return the models, the files that are of none, and the files that were set aside."""
        models = list(self._models())
        return [
            *models,
            *self._unused(),
            *(
                each
                for path in entries_of(self._files.damaged)
                for each in stored_at(path, Kind.DAMAGED_FILE)
            ),
            *(
                each
                for path in self._foreign()
                for each in stored_at(path, Kind.UNUSED_FILE, users=(OTHER_TOOLS,))
            ),
        ]

    def _foreign(self) -> Iterator[Path]:
        """Yield what has no name that the store gives: somebody else put it there."""
        for folder in (self._files.listings, self._blobs.folder, self._files.folders):
            yield from (path for path in entries_of(folder) if not is_named_by_digest(path))

    def _models(self) -> Iterator[Stored]:
        for path in filter(is_named_by_digest, entries_of(self._files.listings)):
            digest = f"sha256:{path.name}"
            users, marked = self._files.users.of(digest)
            problem = f"The listing {path} has changed since it was stored."
            entries = None
            try:
                listing = read_stored(path)
                entries = decode_listing(listing) if tree_digest(listing) == digest else None
            except FileNotFoundError:
                continue  # another process set it aside just now
            except OSError as error:
                problem = f"{path} cannot be read: {describe(error)}."
            except ValueError:
                pass
            if entries is None:
                yield Stored(
                    Kind.MODEL, str(path), 0, digest, damage=(problem,), users=users, marked_by=marked
                )
                continue
            yield Stored(
                Kind.MODEL,
                str(self._files.folders / path.name),
                sum(entry.size for entry in entries),
                digest,
                file_count=len(entries),
                damage=tuple(self._problems(self._files.folders / path.name, entries)),
                users=users,
                marked_by=marked,
                files=self._disk_files(self._files.folders / path.name, entries),
            )

    def _disk_files(self, folder: Path, entries: Sequence[FileEntry]) -> dict[File, int]:
        """Return what the model takes on the disk; where its folder has copies and no links, these too."""
        statuses = [file_status(self._blobs.path(entry.sha256)) for entry in entries]
        return {**dict(allocated(status) for status in statuses if status), **files_below(folder)}

    def _problems(self, folder: Path, entries: Sequence[FileEntry]) -> Iterator[str]:
        for entry in entries:
            blob = self._blobs.path(entry.sha256)
            size = self._blobs.size(entry.sha256)
            if size is None and exists(blob):
                self._is_undamaged[entry.sha256] = False
                yield f"{entry.path} has changed since it was stored: {blob}."
            elif size is None:
                yield f"{entry.path} is missing: {blob}."
            elif size != entry.size:
                self._is_undamaged[entry.sha256] = False
                yield f"{entry.path} has {size} bytes instead of {entry.size}: {blob}."
            elif not self._check(entry.sha256):
                yield f"{entry.path} has changed since it was stored: {blob}."
        if self._read and exists(folder) and not self._holds(folder, entries):
            yield f"The contents of folder {folder} have changed since they were stored."

    def _holds(self, folder: Path, entries: Sequence[FileEntry]) -> bool:
        if holds_exactly(folder, entries, self._blobs):
            return True
        with locked(self._files.lock):  # another process may just have been replacing it
            return holds_exactly(folder, entries, self._blobs)

    def _check(self, sha256: str) -> bool:
        if sha256 not in self._is_undamaged:
            self._is_undamaged[sha256] = not self._read or self._blobs.is_undamaged(sha256)
        return self._is_undamaged[sha256]

    def _unused(self) -> Iterator[Stored]:
        for path in filter(is_named_by_digest, entries_of(self._blobs.folder)):
            if path.name not in self._is_undamaged:
                problem = f"The contents of {path} do not match its digest."
                damage = () if self._check(path.name) else (problem,)
                yield from stored_at(path, Kind.UNUSED_FILE, damage=damage)
        listed = {path.name for path in entries_of(self._files.listings)}
        for folder in filter(is_named_by_digest, entries_of(self._files.folders)):
            if folder.name not in listed:
                files = files_below(folder)
                yield Stored(Kind.UNUSED_FILE, str(folder), sum(files.values()), files=files)
