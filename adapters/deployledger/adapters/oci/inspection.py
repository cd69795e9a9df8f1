"""Says what an image layout keeps, and reads it all to find what is damaged."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from deployledger.adapters.oci.documents import REF_NAME, Descriptor, Index, Manifest
from deployledger.adapters.oci.layout import OciLayout
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.stored import Kind, Stored


class Inspection:
    """One look at everything in a layout.

    Args:
        read: whether blobs are read and compared with their digests, each once.
    """

    def __init__(self, layout: OciLayout, *, read: bool) -> None:
        self._layout = layout
        self._read = read
        self._is_undamaged: dict[str, bool] = {}

    def run(self) -> list[Stored]:
        """Return the index, the images that it names, blobs of no image, and blobs that were set aside."""
        index = self._layout.root / "index.json"
        if not index.exists():
            return []
        content = Index()
        damage: tuple[str, ...] = ()
        try:
            content = self._layout.index()
        except ExternalServiceError as error:
            damage = (error.message,)
        found = [*_file(index, Kind.IMAGE_INDEX, damage), *self._images(content)]
        unused = [path for path in self._layout.blobs() if _digest(path) not in self._is_undamaged]
        found += [stored for path in unused for stored in self._unused(path)]
        return [*found, *(it for path in self._layout.damaged() for it in _file(path, Kind.DAMAGED_FILE))]

    def _images(self, index: Index) -> Iterator[Stored]:
        names: dict[str, list[str]] = {}
        for entry in index.manifests:
            names.setdefault(entry.digest, []).append((entry.annotations or {}).get(REF_NAME, ""))
        for entry in {entry.digest: entry for entry in index.manifests}.values():
            damage = list(self._problems(entry, "the manifest"))
            parts: list[Descriptor] = []
            if not damage:
                try:
                    manifest = Manifest.model_validate_json(self._layout.blob(entry.digest).read_bytes())
                except (ValidationError, OSError):
                    continue  # of another tool
                parts = [manifest.config, *manifest.layers]
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
                names=tuple(sorted(names[entry.digest])),
                damage=tuple(damage),
            )

    def _problems(self, part: Descriptor, what: str) -> Iterator[str]:
        path = self._layout.blob(part.digest)
        known = self._is_undamaged.get(part.digest)
        try:
            size = path.stat().st_size
        except OSError:
            self._is_undamaged[part.digest] = False
            yield f"{what.capitalize()} is missing: {path}."
            return
        if known is None:
            known = not self._read or self._layout.is_undamaged(part.digest)
            self._is_undamaged[part.digest] = known
        if size != part.size:
            yield f"{what.capitalize()} has {size} bytes, and should have {part.size}: {path}."
        elif not known:
            yield f"{what.capitalize()} is not what was packaged: {path}."

    def _unused(self, path: Path) -> Iterator[Stored]:
        problem = f"The contents of {path} are not those of its digest."
        is_damaged = self._read and not self._layout.is_undamaged(_digest(path))
        yield from _file(path, Kind.UNUSED_FILE, damage=(problem,) if is_damaged else ())


def _digest(path: Path) -> str:
    return f"sha256:{path.name}"


def _file(path: Path, kind: Kind, damage: tuple[str, ...] = ()) -> Iterator[Stored]:
    with suppress(FileNotFoundError):  # another process moved it just now
        yield Stored(kind, str(path), path.stat().st_size, damage=damage)
