"""The clients of these examples, tested by the contract suites: ``pytest examples/test_own_clients.py``."""

import shutil
from pathlib import Path

import pytest

from deployledger.testing import ContainerRegistryContract, ModelRegistryContract, OrchestratorContract
from examples.own_orchestrator_client import TarRegistry, ThreadOrchestrator
from examples.own_registry_client import FolderRegistry

MODELS = Path(__file__).parent / "models"


class TestFolderRegistry(ModelRegistryContract):
    model_uri = "models:/iris/1"
    missing_uri = "models:/iris/9"

    @pytest.fixture
    def client(self, tmp_path: Path) -> FolderRegistry:
        version = tmp_path / "models" / "iris" / "1"
        version.mkdir(parents=True)
        shutil.copyfile(MODELS / "iris-v1.onnx", version / "model.onnx")
        return FolderRegistry(tmp_path / "models")


class TestTarRegistry(ContainerRegistryContract):
    @pytest.fixture
    def client(self, tmp_path: Path) -> TarRegistry:
        return TarRegistry(tmp_path / "images")


class TestThreadOrchestrator(OrchestratorContract):
    @pytest.fixture
    def client(self) -> ThreadOrchestrator:
        return ThreadOrchestrator()
