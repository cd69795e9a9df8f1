"""A model registry of one's own: a folder of models by name and version.

    models/
      iris/
        1/model.onnx
        2/model.onnx

`FolderRegistry` is a complete model registry client: any object with its one method will do.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path


class FolderRegistry:
    """Serves ``models:/<name>/<version>`` from ``<root>/<name>/<version>``."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).resolve()

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        """Copy a version's files, or one of them, into ``dst_path`` and return where they are.

        Raises:
            FileNotFoundError: there is no such model, or a run is asked for, which a folder does not have.
        """
        if model_uri is None or not model_uri.startswith("models:/"):
            raise FileNotFoundError(f"A folder has models:/<name>/<version>, not {model_uri or run_id!r}.")
        source = (self._root / model_uri.removeprefix("models:/") / (artifact_path or "")).resolve()
        if not source.is_relative_to(self._root) or not source.exists():
            raise FileNotFoundError(f"{self._root} has no {model_uri!r} (artifact path {artifact_path!r}).")
        # Copying blocks: a thread does it, so that the caller's event loop goes on.
        return await asyncio.to_thread(_copy, source, Path(dst_path or tempfile.mkdtemp()))


def _copy(source: Path, destination: Path) -> str:
    target = destination / source.name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return str(target)


async def main() -> None:
    """Put two versions of a model into a folder, and deploy one from there."""
    from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
    from core_ai_layer.machine_learning_service.ml_models_schemas import (
        DeploymentRequest,
        DeploymentTargetConfig,
    )

    with tempfile.TemporaryDirectory() as folder:
        for version in (1, 2):
            target = Path(folder, "iris", str(version))
            target.mkdir(parents=True)
            shutil.copyfile(Path(__file__).parent / "models" / f"iris-v{version}.onnx", target / "model.onnx")

        async with MLModelDeploymentService.local(FolderRegistry(folder)) as service:
            accepted = await service.deploy_model(
                DeploymentRequest(
                    model_uri="models:/iris/2",
                    deployment_name="iris-from-a-folder",
                    deployment_target_config=DeploymentTargetConfig(type="api_service"),
                )
            )
            status = await service.wait_for_deployment(accepted.deployment_id, timeout=60)
            print(f"{status.deployment_name} is {status.status}: {status.message}")
            await service.delete_deployment(status.deployment_id)
            await service.wait_for_deployment(status.deployment_id, timeout=60)


if __name__ == "__main__":
    asyncio.run(main())
