"""The JSON documents of an image: what OCI and ModelPack say that they hold.

OCI image manifest, index and descriptor: https://github.com/opencontainers/image-spec (v1.1).
ModelPack config and media types: https://github.com/modelpack/model-spec (v1).
"""

import json
from collections.abc import Collection
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from deployledger.domain.values import Digest

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
MODEL: Final = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
MODEL_WEIGHTS: Final = "application/vnd.cncf.model.weight.v1.tar"

FILE_PATH: Final = "org.cncf.model.filepath"
REF_NAME: Final = "org.opencontainers.image.ref.name"

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""The size of a manifest that registries must at least accept, and many accept at most."""


class Document(BaseModel):
    """Base of the documents: camel case in JSON, and fields that other tools added are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", alias_generator=to_camel, populate_by_name=True)

    def encode(self) -> bytes:
        """Return the one JSON text of this document: sorted keys, no white space, UTF-8."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


class Descriptor(Document):
    """Names a blob: what kind it is, its digest and its size in bytes."""

    media_type: str
    digest: Digest
    size: int = Field(ge=0)
    annotations: dict[str, str] | None = None


class Manifest(Document):
    """Says which config and layers are the image."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST
    artifact_type: str | None = None
    config: Descriptor
    layers: list[Descriptor]


class Index(Document):
    """Says which images a layout has, each under the name in its ``ref.name`` annotation."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.index.v1+json"] = INDEX
    manifests: list[Descriptor] = []

    def tagged(self, name: str, manifest: Descriptor) -> "Index":
        """Return this index with ``name`` standing for ``manifest``, whatever it stood for before."""
        others = [entry for entry in self.manifests if (entry.annotations or {}).get(REF_NAME) != name]
        named = manifest.model_copy(update={"annotations": {REF_NAME: name}})
        return self.model_copy(update={"manifests": [*others, named]})

    def without(self, images: Collection[str], names: Collection[str]) -> "Index":
        """Return this index without some images, given by their digests, and without some names of others."""
        left = [
            entry
            for entry in self.manifests
            if entry.digest not in images and (entry.annotations or {}).get(REF_NAME) not in names
        ]
        return self.model_copy(update={"manifests": left})


class ModelFiles(Document):
    """The digests of the uncompressed layers, in order."""

    type: Literal["layers"] = "layers"
    diff_ids: list[Digest]


class ModelConfig(Document):
    """The config of a ModelPack image: about the files alone, so that equal files make equal images."""

    descriptor: dict[str, str] = {}
    config: dict[str, str] = {}
    modelfs: ModelFiles
