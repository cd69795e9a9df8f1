"""Unpacks the model from an image that this package built."""

import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import ValidationError

from deployledger.adapters.oci.archives import unpack
from deployledger.adapters.oci.documents import MAX_DOCUMENT_BYTES, MODEL, MODEL_WEIGHTS, Descriptor, Manifest
from deployledger.adapters.oci.failures import describe, image_damaged, packaging_failed, storage_errors
from deployledger.adapters.oci.layout import OciLayout
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.service.files.listing import FileEntry
from deployledger.service.files.private import make_folder
from deployledger.service.files.reading import is_exhausted, open_stored
from deployledger.service.files.stopping import CHUNK_BYTES, check_not_stopped

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_REFERENCE = re.compile(r"oci:(?P<folder>/.+)@(?P<digest>sha256:[0-9a-f]{64})", re.DOTALL)


def extract_model(reference: str, destination: Path) -> list[FileEntry]:
    """Unpack the model of an image, as ``destination``: what is ``/models`` in the image.

    Every blob is checked against its digest and size while it is read; one that is damaged is set aside. The
    folder appears complete or not at all, and its files have survived a power failure by then. It must not
    exist yet, or be empty.

    Return what each of its files is.

    Arguments:
        reference: ``oci:<absolute folder of the layout>@sha256:<digest of the manifest>``, as in
            `deployledger.domain.values.Image`.
        destination: the folder to make; its parents are made if need be.

    Raises:
        ExternalServiceError: the reference is not one of ours, the image is not a model's, or the
            destination is in use (``packaging_failed``); blobs are missing or damaged
            (``artifact_damaged``); or the disk failed (``storage_failed``).
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise packaging_failed(
            f"{reference!r} is not a reference to an image in a local layout.",
            hint="Give one of the form oci:/folder/of/the/layout@sha256:<digest>.",
        )
    layout = OciLayout(Path(match["folder"]))
    layers = _layers(layout, match["digest"])
    with storage_errors(destination):
        if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
            raise packaging_failed(
                f"{str(destination)!r} already exists, so no model was extracted over it.",
                hint="Remove it, or give a folder that does not exist yet.",
            )
        make_folder(destination.parent)
        unpacked = destination.parent / f".{destination.name}.{uuid4().hex}"
        make_folder(unpacked)
        try:
            entries = [entry for layer in layers for entry in _unpack_layer(layout, layer, unpacked)]
            unpacked.rename(destination)
            return entries
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)  # gone already, unless something failed


def _layers(layout: OciLayout, digest: str) -> list[Descriptor]:
    """Return the layers of the image, after checking its manifest and config."""
    try:
        manifest = Manifest.model_validate_json(_read_document(layout, digest))
    except ValidationError as error:
        raise packaging_failed(
            f"{digest} in {str(layout.root)!r} is not an image manifest.",
            hint="Give the digest of an image, not of one of its layers.",
        ) from error
    if manifest.artifact_type != MODEL or {layer.media_type for layer in manifest.layers} != {MODEL_WEIGHTS}:
        raise packaging_failed(
            f"The image {digest} in {str(layout.root)!r} is not a model packaged by this service.",
            hint="Deploy the model with this service to package it.",
        )
    _read_document(layout, manifest.config.digest)
    return manifest.layers


def _read_document(layout: OciLayout, digest: str) -> bytes:
    with _open(layout, digest) as file, _reading(layout, digest):
        content = file.read(MAX_DOCUMENT_BYTES)
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise _damaged(layout, digest, f"the contents of blob {digest} do not match its digest")
    return content


def _unpack_layer(layout: OciLayout, layer: Descriptor, folder: Path) -> list[FileEntry]:
    with _open(layout, layer.digest) as file:
        hashed = _HashedStream(layout, layer.digest, file)
        stream = io.BufferedReader(hashed, CHUNK_BYTES)
        try:
            entries = unpack(stream, folder)
        except (tarfile.TarError, ValueError) as error:
            what = f"layer {layer.digest} is not one that was packaged: {error}"
            if not layout.is_undamaged(layer.digest):
                raise _damaged(layout, layer.digest, what) from error
            raise packaging_failed(
                f"An image in {str(layout.root)!r} was not packaged by this service: {what}.",
                hint="Deploy the model with this service to package it.",
            ) from error
        while stream.read(CHUNK_BYTES):
            check_not_stopped()  # what follows the archive counts for the digest too
    if (hashed.digest, hashed.size) != (layer.digest, layer.size):
        raise _damaged(
            layout, layer.digest, f"the contents of layer {layer.digest} do not match its digest or size"
        )
    return entries


def _damaged(layout: OciLayout, digest: str, what: str) -> ExternalServiceError:
    aside = layout.set_aside(digest)
    return image_damaged(layout.root, f"{what}; it was moved to {str(aside)!r}" if aside else what)


class _HashedStream(io.RawIOBase):
    """Reads a file of the layout, and knows the digest and size of what was read so far."""

    def __init__(self, layout: OciLayout, expected: str, file: io.FileIO) -> None:
        self._layout = layout
        self._expected = expected
        self._file = file
        self._hasher = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        with _reading(self._layout, self._expected):
            count = self._file.readinto(buffer)
        self._hasher.update(memoryview(buffer)[:count])
        self.size += count
        return count


def _open(layout: OciLayout, digest: str) -> io.FileIO:
    with _reading(layout, digest):
        return open_stored(layout.blob(digest))


@contextmanager
def _reading(layout: OciLayout, digest: str) -> Iterator[None]:
    """Turn an `OSError` of reading a blob into a typed error: one that cannot be read is damaged."""
    with storage_errors(layout.root):
        try:
            yield
        except FileNotFoundError as error:
            raise image_damaged(layout.root, f"blob {digest} is missing") from error
        except OSError as error:
            if is_exhausted(error):
                raise
            raise _damaged(layout, digest, f"blob {digest} cannot be read: {describe(error)}") from error
