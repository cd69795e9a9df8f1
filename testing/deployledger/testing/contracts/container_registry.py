"""What every container registry client must do."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deployledger.domain import (
    ChecksContents,
    ContainerRegistryClientInterface,
    FailureReason,
    Image,
    MachineLearningServiceError,
    UnpacksImages,
)
from deployledger.testing.contracts.requests import NAME, deployed, example_model, files_of, package_request
from deployledger.testing.service import in_memory_service


class ContainerRegistryContract:
    """Tests of a container registry client; subclass it as ``Test…``, and define the fixture ``client``."""

    @pytest.fixture
    def client(self) -> ContainerRegistryClientInterface:
        """Return the client to test."""
        raise NotImplementedError("Define a fixture `client` that returns the container registry client.")

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """Return the folder of a model that the client can package; by default, of two files."""
        return example_model(tmp_path / "model")

    def test_an_image_has_a_digest_and_a_size(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """The digest is a sha256, and the size is positive."""
        image = _build(client, model, tmp_path / "store")
        assert image.reference
        assert image.digest.startswith("sha256:")
        assert image.size_bytes > 0

    def test_equal_files_have_the_same_digest(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """The digest does not depend on the folder, the deployment, the revision or the event loop."""
        copy = shutil.copytree(model, tmp_path / "copy")
        image = _build(client, model, tmp_path / "store")
        again = _build(client, copy, tmp_path / "other store", name="another-name", revision=2)
        assert again.digest == image.digest

    def test_different_files_have_different_digests(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """One more file makes another image, and so does one changed byte in any file."""
        digest = _build(client, model, tmp_path / "store").digest
        other = shutil.copytree(model, tmp_path / "other")
        (other / "additional.txt").write_text("One more file.")
        assert _build(client, other, tmp_path / "store").digest != digest
        for number, (path, content) in enumerate(sorted(files_of(model).items())):
            changed = shutil.copytree(model, tmp_path / f"changed {number}")
            (changed / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"!")
            with suppress(MachineLearningServiceError):  # the client may refuse what is no model any more
                assert _build(client, changed, tmp_path / "store").digest != digest, path

    def test_builds_run_concurrently(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """Orders for the same model at the same time give the same image."""

        async def build_three() -> list[Image]:
            orders = [await package_request(model, tmp_path / "store", revision=n) for n in (1, 2, 3)]
            return await asyncio.gather(*map(client.build_and_push, orders))

        assert len({image.digest for image in asyncio.run(build_three())}) == 1

    def test_changed_files_are_refused(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """A client that promises to check contents refuses files that are not those of the artifact."""
        if not isinstance(client, ChecksContents) or not client.checks_contents:
            pytest.skip("the client does not check contents")
        changed = shutil.copytree(model, tmp_path / "changed")
        file = next(path for path in sorted(changed.rglob("*")) if path.is_file())
        file.write_bytes(file.read_bytes()[::-1] + b"!")
        order = asyncio.run(package_request(model, tmp_path / "store"))
        with pytest.raises(MachineLearningServiceError) as raised:
            asyncio.run(client.build_and_push(replace(order, model_path=changed)))
        assert raised.value.reason == FailureReason.ARTIFACT_DAMAGED

    def test_an_unpacked_image_has_the_files_of_the_model(
        self, client: ContainerRegistryClientInterface, model: Path, tmp_path: Path
    ) -> None:
        """A client that unpacks images gives back exactly the model's files."""
        if not isinstance(client, UnpacksImages):
            pytest.skip("the client does not unpack images")
        image = _build(client, model, tmp_path / "store")
        asyncio.run(client.unpack(image.reference, tmp_path / "unpacked"))
        assert files_of(tmp_path / "unpacked") == files_of(model)

    def test_a_service_packages_with_it(self, client: ContainerRegistryClientInterface, model: Path) -> None:
        """A deployment becomes active, and its status names the image's digest."""

        async def deploy() -> None:
            async with in_memory_service(container_registry=client) as service:
                active = await deployed(service, model.as_uri())
                assert (active.status, active.failure) == ("active", None)
                assert active.image_digest is not None

        asyncio.run(deploy())


def _build(
    client: ContainerRegistryClientInterface, model: Path, store: Path, *, name: str = NAME, revision: int = 1
) -> Image:
    async def build() -> Image:
        return await client.build_and_push(await package_request(model, store, name=name, revision=revision))

    return asyncio.run(build())
