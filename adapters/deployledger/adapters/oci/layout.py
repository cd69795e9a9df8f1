"""An OCI image layout on disk: blobs by their digest, and an index that names the images.

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from deployledger.adapters.oci.documents import Descriptor, Index
from deployledger.adapters.oci.failures import describe, image_damaged, storage_errors
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.logs import logger
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.inventory import entries_of
from deployledger.service.files.locks import locked
from deployledger.service.files.private import make_folder, open_file
from deployledger.service.files.reading import exists, has_sha256, is_exhausted, read_stored
from deployledger.service.files.staging import refuse_links, remove, staging_folder, sweep
from deployledger.service.files.stopping import write_sparse
from deployledger.service.files.writing import make_durable, move_aside, put, sync, write_whole

LOGGER = logger("artifacts")


class OciLayout:
    """One image layout folder, shared by any number of threads and processes.

    Besides what the specification names there is ``.deployledger/``: a lock file, blobs being written, and
    blobs that were found damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._own = root / ".deployledger"
        self._staging = self._own / "staging"
        self._damaged = self._own / "damaged"
        self._lock = self._own / "lock"

    def prepare(self) -> None:
        """Make the layout if it is not there yet, and remove what killed processes left.

        Raises:
            ExternalServiceError: the folder cannot be written.
        """
        with storage_errors(self.root):
            make_folder(self._blobs)
            make_folder(self._staging)
            sweep(self._staging)

    @contextmanager
    def adding(self) -> Iterator["AddedBlobs"]:
        """Add the blobs of an image: they become part of the layout by `publish`, and are gone otherwise.

        Raises:
            ExternalServiceError: the folder cannot be written.
        """
        with storage_errors(self.root), staging_folder(self._staging) as staging:
            yield AddedBlobs(self.root, staging)

    def publish(self, added: "AddedBlobs", name: str, manifest: Descriptor) -> None:
        """Make the blobs part of the layout, and ``name`` stand for their image, in place of any other.

        It is all done at once for whoever frees what is unused. A blob that is there already is replaced by
        the same bytes, which repairs it if it is damaged. An index that is damaged is set aside, and a new
        one begun: it may have names of other tools, but no image is used by its name here.

        Raises:
            ExternalServiceError: the layout cannot be written.
        """
        with storage_errors(self.root), locked(self._lock):
            for digest, staged in added.staged.items():
                self._publish(staged, self._blobs / digest)
            try:
                index = self.index()
            except ExternalServiceError as error:
                if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                    raise
                aside = move_aside(self.root / "index.json", self._damaged / "index.json")
                LOGGER.warning("%s It was moved to %s, and a new one was begun.", error.message, aside)
                index = Index()
            self._write("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            self._write("index.json", index.tagged(name, manifest).encode())

    def free(self, choose: Callable[[], tuple[Collection[str], Collection[str], Collection[Path]]]) -> None:
        """Remove images, names of others, and other files of the layout; nothing is added meanwhile.

        Args:
            choose: returns the digests of the images' manifests, the names, and the files.

        Raises:
            ConfigurationError: a folder of the layout is a symbolic link.
            ExternalServiceError: the layout cannot be read or written.
        """
        with storage_errors(self.root), locked(self._lock):
            refuse_links(self.root, (self._blobs, self._damaged))
            images, names, files = choose()
            if images or names:
                self._write("index.json", self.index().without(images, names).encode())
            for digest in images:  # what only a manifest leads to is removed after it, by ``files``
                remove(self.blob(digest))
            sync(self._blobs)
            for path in files:
                remove(path)

    def index(self) -> Index:
        """Return the names of the images; none if the layout is new.

        Raises:
            ExternalServiceError: the index is damaged, or cannot be read.
        """
        with storage_errors(self.root):
            try:
                return Index.model_validate_json(read_stored(self.root / "index.json"))
            except FileNotFoundError:
                return Index()
            except ValidationError as error:
                raise image_damaged(self.root, "index.json is not an OCI image index") from error
            except OSError as error:
                if is_exhausted(error):
                    raise
                raise image_damaged(self.root, f"index.json cannot be read: {describe(error)}") from error

    def blob(self, digest: str) -> Path:
        """Return where the blob is, if it is there."""
        return self._blobs / digest.removeprefix("sha256:")

    def blobs(self) -> list[Path]:
        """Return every blob, of whatever image."""
        return entries_of(self._blobs)

    def damaged(self) -> list[Path]:
        """Return the blobs that were set aside because they were damaged."""
        return entries_of(self._damaged)

    def set_aside(self, digest: str) -> Path | None:
        """Move a blob out of the way if its contents have another digest, and return where it is now.

        Return None if there is no such blob, another process mended it meanwhile, or it cannot be moved:
        it is never used as it is, and packaging its model again replaces it.
        """
        with suppress(OSError):
            with locked(self._lock):
                if exists(self.blob(digest)) and not self.is_undamaged(digest):
                    return move_aside(self.blob(digest), self._damaged / digest.removeprefix("sha256:"))
        return None

    def is_undamaged(self, digest: str) -> bool:
        """Read a blob and return whether it has this digest; one that cannot be read has not."""
        return has_sha256(self.blob(digest), digest.removeprefix("sha256:"))

    def _write(self, name: str, content: bytes) -> None:
        with staging_folder(self._staging) as staging:
            staged = staging / name
            write_whole(staged, content)
            self._publish(staged, self.root / name)

    def _publish(self, staged: Path, target: Path) -> None:
        """Give a complete file that is on disk its final name, so that the name survives a power failure."""
        put(staged, target, aside=self._damaged / target.name)
        sync(target.parent)


class AddedBlobs:
    """Blobs that are complete and on disk, but not yet part of the layout.

    Attributes:
        staged: where each is, by the sha256 of its contents.
    """

    def __init__(self, root: Path, staging: Path) -> None:
        self._root = root
        self._staging = staging
        self.staged: dict[str, Path] = {}

    def add(self, chunks: Iterable[bytes], media_type: str) -> Descriptor:
        """Write the bytes, which may be many gigabytes, and return their descriptor.

        Raises:
            ExternalServiceError: the folder cannot be written.
        """
        hasher = hashlib.sha256()
        size = 0
        staged = self._staging / str(len(self.staged))

        def hashed() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                yield chunk

        with storage_errors(self._root):
            with open(staged, "wb", opener=open_file) as file:
                write_sparse(file, hashed())
            make_durable(staged)
        self.staged[hasher.hexdigest()] = staged
        return Descriptor(media_type=media_type, digest=f"sha256:{hasher.hexdigest()}", size=size)
