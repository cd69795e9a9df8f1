"""The model registry client on MLflow."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployledger.adapters.mlflow.artifacts import fetch
from deployledger.adapters.mlflow.connection import question
from deployledger.adapters.mlflow.references import (
    ModelReference,
    RegisteredModel,
    parse_reference,
    run_artifact,
)
from deployledger.adapters.mlflow.versions import pin
from deployledger.domain.exceptions import ConfigurationError, ModelRegistryError
from deployledger.domain.ports import ResolvedModel
from deployledger.domain.reasons import FailureReason


class MlflowModelRegistryClient:
    """Downloads models and artifacts of runs from an MLflow server, and pins aliases to versions.

    Understands ``models:/<name>/<version>``, ``models:/<name>/latest``, ``models:/<name>@<alias>``,
    ``models:/m-<id>`` (a logged model of MLflow 3) and ``runs:/<run id>/<path>``, also spelt
    ``mlflow_runs:/``. Blocking work is done in threads. Safe to share between tasks.

    Args:
        tracking_uri: the address of the MLflow server; None uses MLflow's own setting
            (``MLFLOW_TRACKING_URI``).
        registry_uri: the address of the model registry, where it is not the tracking server.
    """

    def __init__(self, tracking_uri: str | None = None, *, registry_uri: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._registry_uri = registry_uri

    async def resolve_model(self, model_uri: str) -> ResolvedModel:
        """Return the URI of the version that ``model_uri`` means now, and that version's number.

        Runs and logged models have no version; it is checked that they exist.

        Raises:
            ConfigurationError: the URI is not one of MLflow's, or MLflow is not installed.
            ModelRegistryError: MLflow does not answer, or does not have the model.
        """
        return await asyncio.to_thread(self._resolve, parse_reference(model_uri))

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        """Download a model, or a run's artifact, and return the local path of it.

        Args:
            run_id: the run to download from; give this or ``model_uri``.
            model_uri: the model to download.
            artifact_path: what to download of the run; None for all of its own artifacts.
            dst_path: the folder to download into, created if need be; None for a new temporary folder,
                which is the caller's to remove.

        Raises:
            ConfigurationError: the arguments or the URI are invalid, or MLflow is not installed.
            ModelRegistryError: MLflow does not answer, does not have the artifacts, or they cannot be stored.
        """
        reference = _reference(run_id, model_uri, artifact_path)
        return await asyncio.to_thread(self._download, reference, dst_path)

    def check_model_uri(self, model_uri: str) -> None:
        """Check the form of a model URI; the server is not asked.

        Raises:
            ConfigurationError: it is not a model URI of MLflow.
        """
        parse_reference(model_uri)

    def _resolve(self, reference: ModelReference) -> ResolvedModel:
        with question(self._tracking_uri, self._registry_uri, str(reference)) as server:
            pinned = pin(server, reference)
        version = pinned.version if isinstance(pinned, RegisteredModel) else None
        return ResolvedModel(uri=str(pinned), version=version)

    def _download(self, reference: ModelReference, dst_path: str | None) -> str:
        with _destination(dst_path) as destination:
            with question(self._tracking_uri, self._registry_uri, str(reference)) as server:
                return str(fetch(server, reference, destination))


def _reference(run_id: str | None, model_uri: str | None, artifact_path: str | None) -> ModelReference:
    if run_id and not model_uri:
        return run_artifact(run_id, artifact_path or "")
    if model_uri and not run_id and not artifact_path:
        return parse_reference(model_uri)
    raise ConfigurationError(
        "It is not clear which artifacts to download.",
        hint="Give either model_uri alone, or run_id with an optional artifact_path.",
    )


@contextmanager
def _destination(dst_path: str | None) -> Iterator[Path]:
    """Yield the folder to download into; a temporary one goes again if the download fails."""
    try:
        if dst_path is None:
            destination = Path(tempfile.mkdtemp(prefix="deployledger-model-"))
        else:
            destination = Path(dst_path)
            destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelRegistryError(
            f"The folder to download the model into cannot be created: {error}",
            status_code=507,
            reason=FailureReason.STORAGE_FAILED,
            hint="Give a writable folder.",
        ) from error
    try:
        yield destination
    except BaseException:
        if dst_path is None:
            shutil.rmtree(destination, ignore_errors=True)
        raise
