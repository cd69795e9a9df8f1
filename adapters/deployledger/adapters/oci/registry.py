"""Builds the images of models in an OCI image layout on disk."""

import asyncio
from pathlib import Path

from deployledger.adapters.oci.archives import archive_chunks
from deployledger.adapters.oci.documents import (
    FILE_PATH,
    MANIFEST,
    MODEL,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    Descriptor,
    Manifest,
    ModelConfig,
    ModelFiles,
)
from deployledger.adapters.oci.failures import FETCH_AGAIN, packaging_failed
from deployledger.adapters.oci.layers import Layer, ModelFile, layers_of, model_files
from deployledger.adapters.oci.layout import OciLayout
from deployledger.domain.ports import PackageRequest
from deployledger.domain.values import Image


class OciLayoutRegistry:
    """Builds ModelPack images in one OCI image layout below ``root``, and names each by its deployment.

    The image of revision 3 of the deployment ``fraud`` has the name ``fraud-r3``: tools such as skopeo and
    podman copy it from ``oci:ROOT:fraud-r3``. The model is in ``/models`` of the image. Nothing but names
    and contents of the model's files goes into an image, so equal models have the same image digest, and
    share one image. `deployledger.adapters.oci.extract_model` is the way back.
    """

    def __init__(self, root: Path) -> None:
        self._layout = OciLayout(root)

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Build the model's image in the layout, and return its reference ``oci:<folder>@<digest>``.

        Memory use does not depend on the size of the model. Building again gives the same image.

        Raises:
            ExternalServiceError: the model's files are not those that were fetched or cannot be read
                (``packaging_failed``), or the layout cannot be written or is damaged (``storage_failed``).
        """
        return await asyncio.to_thread(self._build, request)

    def _build(self, request: PackageRequest) -> Image:
        files = model_files(request.model_path)
        _check_complete(files, request)
        self._layout.prepare()
        layers = [self._add_layer(layer) for layer in layers_of(files)]
        diff_ids = [layer.digest for layer in layers]  # a layer is not compressed, so that both are the same
        config = self._layout.add_blob(
            [ModelConfig(modelfs=ModelFiles(diff_ids=diff_ids)).encode()], MODEL_CONFIG
        )
        manifest = self._layout.add_blob(
            [Manifest(artifact_type=MODEL, config=config, layers=layers).encode()], MANIFEST
        )
        self._layout.tag(f"{request.deployment_name}-r{request.revision}", manifest)
        return Image(
            reference=f"oci:{self._layout.root.resolve()}@{manifest.digest}",
            digest=manifest.digest,
            size_bytes=sum(part.size for part in (manifest, config, *layers)),
        )

    def _add_layer(self, layer: Layer) -> Descriptor:
        blob = self._layout.add_blob(archive_chunks(layer.files), MODEL_WEIGHTS)
        return blob.model_copy(update={"annotations": {FILE_PATH: layer.path}})


def _check_complete(files: list[ModelFile], request: PackageRequest) -> None:
    found = (len(files), sum(file.size for file in files))
    expected = (request.artifact.file_count, request.artifact.size_bytes)
    if found != expected:
        raise packaging_failed(
            f"The model of deployment {request.deployment_name!r} was fetched as {expected[0]} files of "
            f"{expected[1]} bytes, but {str(request.model_path)!r} has {found[0]} files of {found[1]} bytes.",
            hint=FETCH_AGAIN,
        )
