"""Lists the contents of an image layout, and reads them to detect damage."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from deployledger.adapters.oci.documents import (
    MANIFEST,
    MAX_DOCUMENT_BYTES,
    MODEL,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
)
from deployledger.adapters.oci.layout import OciLayout
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.stored import OTHER_TOOLS, File, Kind, Stored
from deployledger.service.files.inventory import allocated, stored_at
from deployledger.service.files.reading import (
    exists,
    file_status,
    is_named_by_digest,
    open_stored,
    read_stored,
)


class Inspection:
    """One look at everything in a layout.

    Args:
        read: whether blobs are read and compared with their digests, each once.
    """

    def __init__(self, layout: OciLayout, *, read: bool) -> None:
        self._layout = layout
        self._read = read
        self._is_undamaged: dict[str, bool] = {}
        self._parts: dict[str, list[str]] = {}
        self._has_other_images = False

    def run(self) -> list[Stored]:
        """Return the index, the images that it names, blobs of no image, and blobs that were set aside."""
        path = self._layout.root / "index.json"
        index = Index()
        damage: tuple[str, ...] = ()
        try:
            index = self._layout.index()
        except ExternalServiceError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                raise
            damage = (error.message,)
        images = list(self._images(index))
        if self._has_other_images:  # which may share their layers
            images = [replace(image, users=(OTHER_TOOLS,)) for image in images]
        stored = [*stored_at(path, Kind.IMAGE_INDEX, damage=damage), *images]
        unused = [path for path in self._layout.blobs() if _digest(path) not in self._is_undamaged]
        stored += [each for path in unused for each in self._unused(path)]
        aside = (each for path in self._layout.damaged() for each in stored_at(path, Kind.DAMAGED_FILE))
        return [*stored, *aside]

    def parts_of(self, images: Collection[str]) -> list[Path]:
        """Return the blobs that only these images have, given by the digests of their manifests."""
        parts = {part for image in images for part in self._parts.get(image, ())}
        for image, others in self._parts.items():
            if image not in images:
                parts.difference_update((image, *others))
        return [] if self._has_other_images else [self._layout.blob(part) for part in parts]

    def _images(self, index: Index) -> Iterator[Stored]:
        names: dict[str, list[str]] = {}
        for entry in index.manifests:
            names.setdefault(entry.digest, []).append((entry.annotations or {}).get(REF_NAME, ""))
        entries = {entry.digest: entry for entry in (*self._unnamed(), *index.manifests)}
        for entry in entries.values():
            damage = list(self._problems(entry, "the manifest"))
            parts: list[Descriptor] = []
            if not damage:
                try:
                    manifest = Manifest.model_validate_json(read_stored(self._layout.blob(entry.digest)))
                except (ValidationError, OSError):
                    self._has_other_images = True  # of another tool
                    continue
                parts = [manifest.config, *manifest.layers]
                self._parts[entry.digest] = [part.digest for part in parts]
                damage = [
                    problem
                    for part, what in zip(
                        parts, ["the config", *["a layer"] * len(manifest.layers)], strict=True
                    )
                    for problem in self._problems(part, what)
                ]
            yield Stored(
                Kind.IMAGE,
                str(self._layout.blob(entry.digest)),
                sum(part.size for part in (entry, *parts)),
                entry.digest,
                names=tuple(sorted(names.get(entry.digest, ()))),
                damage=tuple(damage),
                files=self._files_of([entry, *parts]),
            )

    def _files_of(self, parts: Sequence[Descriptor]) -> dict[File, int]:
        statuses = [file_status(self._layout.blob(part.digest)) for part in parts]
        return dict(allocated(status) for status in statuses if status)

    def _unnamed(self) -> Iterator[Descriptor]:
        """Yield the manifests of models that are there: an index may be lost, or have lost names."""
        for path in self._layout.blobs():
            status = file_status(path)
            if status is None or status.st_size > MAX_DOCUMENT_BYTES:
                continue
            try:
                with open_stored(path) as file:
                    content = file.readall() if file.read(1) == b"{" else b""
                manifest = Manifest.model_validate_json(b"{" + content)
            except (ValidationError, OSError):
                continue
            if manifest.artifact_type == MODEL and self._layout.is_undamaged(_digest(path)):
                yield Descriptor(media_type=MANIFEST, digest=_digest(path), size=status.st_size)

    def _problems(self, part: Descriptor, what: str) -> Iterator[str]:
        path = self._layout.blob(part.digest)
        status = file_status(path)
        if status is None:
            self._is_undamaged[part.digest] = False
            yield f"{what.capitalize()} is {'not what was packaged' if exists(path) else 'missing'}: {path}."
            return
        size = status.st_size
        if part.digest not in self._is_undamaged:
            self._is_undamaged[part.digest] = not self._read or self._layout.is_undamaged(part.digest)
        if size != part.size:
            yield f"{what.capitalize()} has {size} bytes, and should have {part.size}: {path}."
        elif not self._is_undamaged[part.digest]:
            yield f"{what.capitalize()} has changed since it was packaged: {path}."

    def _unused(self, path: Path) -> Iterator[Stored]:
        problem = f"The contents of {path} do not match its digest."
        is_damaged = self._read and not self._layout.is_undamaged(_digest(path))
        is_foreign = self._has_other_images or not is_named_by_digest(path)
        users = (OTHER_TOOLS,) if is_foreign else ()
        yield from stored_at(path, Kind.UNUSED_FILE, damage=(problem,) if is_damaged else (), users=users)


def _digest(path: Path) -> str:
    return f"sha256:{path.name}"
