"""What every model registry client must do."""

import asyncio
from pathlib import Path

import pytest

from deployledger.domain import (
    ChecksModelURIs,
    FailureReason,
    ModelRegistryClientInterface,
    ModelRegistryError,
    ResolvesModelVersions,
)
from deployledger.testing.contracts.requests import deployed, files_of
from deployledger.testing.service import in_memory_service


class ModelRegistryContract:
    """Tests of a model registry client; subclass it as ``Test…``, and define ``client`` and the two URIs.

    Attributes:
        model_uri: a model that the registry has.
        missing_uri: a model that it does not have.
    """

    model_uri: str
    missing_uri: str

    @pytest.fixture
    def client(self) -> ModelRegistryClientInterface:
        """Return the client to test."""
        raise NotImplementedError("Define a fixture `client` that returns the model registry client.")

    def test_files_are_downloaded_into_the_folder(
        self, client: ModelRegistryClientInterface, tmp_path: Path
    ) -> None:
        """The path returned is in ``dst_path``, and has the model's files."""
        downloaded = _download(client, self.model_uri, tmp_path)
        assert downloaded.resolve().is_relative_to(tmp_path.resolve())
        assert any(files_of(downloaded).values())

    def test_a_download_can_be_repeated(self, client: ModelRegistryClientInterface, tmp_path: Path) -> None:
        """A second call, on another event loop and into the same folder, gives the same files."""
        first = files_of(_download(client, self.model_uri, tmp_path))
        assert files_of(_download(client, self.model_uri, tmp_path)) == first

    def test_downloads_run_concurrently(self, client: ModelRegistryClientInterface, tmp_path: Path) -> None:
        """Calls at the same time give the same files, each in its own folder."""

        async def download_three() -> list[Path]:
            return await asyncio.gather(
                *(_downloaded(client, self.model_uri, tmp_path / str(number)) for number in range(3))
            )

        first, *others = [files_of(path) for path in asyncio.run(download_three())]
        assert first
        assert all(files == first for files in others)

    def test_a_missing_model_is_reported_as_missing(
        self, client: ModelRegistryClientInterface, tmp_path: Path
    ) -> None:
        """FileNotFoundError, or a ModelRegistryError with the reason ``model_not_found``."""
        with pytest.raises((FileNotFoundError, ModelRegistryError)) as raised:
            _download(client, self.missing_uri, tmp_path)
        assert getattr(raised.value, "reason", None) in (None, FailureReason.MODEL_NOT_FOUND)

    def test_a_resolved_model_is_one_version(
        self, client: ModelRegistryClientInterface, tmp_path: Path
    ) -> None:
        """A resolved URI resolves to itself, and has the model's files."""
        if not isinstance(client, ResolvesModelVersions):
            pytest.skip("the client does not resolve versions")
        resolved = asyncio.run(client.resolve_model(self.model_uri))
        assert asyncio.run(client.resolve_model(resolved.uri)) == resolved
        downloaded = _download(client, resolved.uri, tmp_path / "resolved")
        assert files_of(downloaded) == files_of(_download(client, self.model_uri, tmp_path / "again"))

    def test_its_own_uris_are_accepted(self, client: ModelRegistryClientInterface) -> None:
        """``check_model_uri`` accepts well-formed URIs, whether or not there is such a model."""
        if not isinstance(client, ChecksModelURIs):
            pytest.skip("the client does not check URIs")
        client.check_model_uri(self.model_uri)
        client.check_model_uri(self.missing_uri)

    def test_a_service_deploys_its_model(self, client: ModelRegistryClientInterface) -> None:
        """A service fetches the model, and reports a missing one."""

        async def deploy_both() -> None:
            async with in_memory_service(model_registry=client) as service:
                active = await deployed(service, self.model_uri)
                assert (active.status, active.failure) == ("active", None)
                assert active.artifact_digest is not None
                failed = await deployed(service, self.missing_uri)
                assert failed.failure is not None
                assert failed.failure.reason == FailureReason.MODEL_NOT_FOUND

        asyncio.run(deploy_both())


def _download(client: ModelRegistryClientInterface, model_uri: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return asyncio.run(_downloaded(client, model_uri, folder))


async def _downloaded(client: ModelRegistryClientInterface, model_uri: str, folder: Path) -> Path:
    """Download as a service does: a client that resolves URIs is asked for resolved ones alone."""
    if isinstance(client, ResolvesModelVersions):
        model_uri = (await client.resolve_model(model_uri)).uri
    return Path(await client.download_artifacts(model_uri=model_uri, dst_path=str(folder)))
