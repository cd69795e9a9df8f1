"""Builds the images of models in an OCI image layout on disk."""

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
from deployledger.adapters.oci.extraction import extract_model
from deployledger.adapters.oci.failures import model_damaged, storage_errors
from deployledger.adapters.oci.inspection import Inspection
from deployledger.adapters.oci.layers import Layer, layers_of, model_files
from deployledger.adapters.oci.layout import AddedBlobs, OciLayout
from deployledger.domain.ports import PackageRequest
from deployledger.domain.stored import Decide, Kind, Stored, Verdict
from deployledger.domain.values import Image
from deployledger.service.files.disk_space import check_room
from deployledger.service.files.listing import FileEntry, encode_listing, tree_digest
from deployledger.service.files.stopping import stoppable


class OciLayoutRegistry:
    """Builds ModelPack images in one OCI image layout below ``root``, and names each by its deployment.

    The image of revision 3 of the deployment ``fraud`` has the name ``fraud-r3``: tools such as skopeo and
    podman copy it from ``oci:ROOT:fraud-r3``. The model is in ``/models`` of the image. Nothing but names
    and contents of the model's files goes into an image, so equal models have the same image digest, and
    share one image. `deployledger.adapters.oci.extract_model` is the way back.
    """

    checks_contents = True

    def __init__(self, root: Path) -> None:
        self._layout = OciLayout(root)

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Build the model's image in the layout, and return its reference ``oci:<folder>@<digest>``.

        Memory use does not depend on the size of the model. Building again gives the same image, and repairs
        one that is damaged. The model's files are checked against the artifact's digest as they are read.

        Raises:
            ExternalServiceError: the model's files are not those of the artifact or cannot be read, or the
                layout's index is damaged (``artifact_damaged``); or the layout cannot be written
                (``storage_failed``).
        """
        return await stoppable(self._build, request)

    async def unpack(self, reference: str, destination: Path) -> None:
        """Unpack the model of an image, as `deployledger.adapters.oci.extract_model` does.

        Raises:
            ExternalServiceError: see `deployledger.adapters.oci.extract_model`.
        """
        await stoppable(extract_model, reference, destination)

    async def stored(self, *, read: bool) -> list[Stored]:
        """Return the images in the layout, its index, blobs of no image, and damaged blobs set aside.

        Args:
            read: whether to read every blob and report what is damaged; otherwise only sizes are compared.

        Raises:
            ExternalServiceError: the layout cannot be read (``storage_failed``).
        """
        return await stoppable(self._stored, read)

    async def free(self, decide: Decide, user: str) -> None:
        """Free images, blobs of no image, and what killed processes left; see `FreesFiles`.

        Raises:
            ExternalServiceError: the index is damaged (``artifact_damaged``), or the layout cannot be
                written (``storage_failed``).
        """
        await stoppable(self._free, decide)

    def _stored(self, read: bool) -> list[Stored]:
        with storage_errors(self._layout.root):
            return Inspection(self._layout, read=read).run()

    def _free(self, decide: Decide) -> None:
        root = self._layout.root
        if not root.is_dir():
            return
        self._layout.prepare()

        def choose() -> tuple[set[str], set[str], list[Path]]:
            inspection = Inspection(self._layout, read=False)
            stored = inspection.run()
            decided = list(zip(stored, decide(stored), strict=True))
            names = {name for _, decision in decided for name in decision.names}
            freed = [each for each, decision in decided if decision.verdict is Verdict.FREE]
            images = {each.digest for each in freed if each.kind is Kind.IMAGE}
            files = [Path(each.path) for each in freed if each.kind is not Kind.IMAGE]
            return images, names, [*inspection.parts_of(images), *files]

        self._layout.free(choose)

    def _build(self, request: PackageRequest) -> Image:
        files = model_files(request.model_path)
        self._layout.prepare()
        with storage_errors(self._layout.root):
            check_room(self._layout.root, sum(file.size for file in files))
        packed: list[FileEntry] = []
        with self._layout.adding() as added:
            layers = [_add_layer(added, layer, packed) for layer in layers_of(files)]
            digest = tree_digest(encode_listing(packed))
            if digest != request.artifact.digest:
                raise model_damaged(request.model_path, request.artifact.digest, digest)
            diff_ids = [layer.digest for layer in layers]  # not compressed, so that both are the same
            config = added.add([ModelConfig(modelfs=ModelFiles(diff_ids=diff_ids)).encode()], MODEL_CONFIG)
            manifest = added.add(
                [Manifest(artifact_type=MODEL, config=config, layers=layers).encode()], MANIFEST
            )
            self._layout.publish(added, f"{request.deployment_name}-r{request.revision}", manifest)
        return Image(
            reference=f"oci:{self._layout.root.resolve()}@{manifest.digest}",
            digest=manifest.digest,
            size_bytes=sum(part.size for part in (manifest, config, *layers)),
        )


def _add_layer(added: AddedBlobs, layer: Layer, packed: list[FileEntry]) -> Descriptor:
    blob = added.add(archive_chunks(layer.files, packed), MODEL_WEIGHTS)
    return blob.model_copy(update={"annotations": {FILE_PATH: layer.path}})
