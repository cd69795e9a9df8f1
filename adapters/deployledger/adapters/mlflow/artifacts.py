"""Fetches the files that references name, straight from the places where MLflow keeps them.

MLflow's own downloads are not used for this: that of ``models:/`` asks the process-wide server instead of the
one given, and adds a file that says under which name the model was fetched, so that one model would have as
many digests as names; that of ``runs:/`` hides network failures, and can so return half of a model.
"""

from pathlib import Path
from typing import Any

from deployledger.adapters.mlflow.connection import Server
from deployledger.adapters.mlflow.references import LoggedModel, ModelReference, RegisteredModel, RunArtifact
from deployledger.adapters.mlflow.versions import pin_version
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.disk_space import check_room

_MOST_NAMES_SHOWN = 8
_NO_SUCH_ENDPOINT = "ENDPOINT_NOT_FOUND"


def fetch(server: Server, reference: ModelReference, destination: Path) -> Path:
    """Download what the reference names below ``destination``, and return where it is.

    Raises:
        ModelRegistryError: MLflow does not have it, or it has no files.
    """
    client = server.client
    match reference:
        case RunArtifact():
            return _fetch_from_run(server, reference, destination)
        case LoggedModel(model_id=model_id):
            location = client.get_logged_model(model_id).artifact_location
            return _Place(server, location).fetch("", destination)
        case RegisteredModel(name=name, path=path):
            version = pin_version(server, reference).version
            location = client.get_model_version_download_uri(name, version)
            return _Place(server, location).fetch(path, destination)


class _Place:
    """A folder where MLflow keeps artifacts: on its own server, in an object store or on a shared disk."""

    def __init__(self, server: Server, location: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._server = server
        self._files = get_artifact_repository(location, tracking_uri=server.tracking_uri)

    def fetch(self, path: str, destination: Path) -> Path:
        """Download the file or folder ``path``, or everything, to ``destination / path``."""
        entries = self.entries(path.rpartition("/")[0])
        if not path and not entries:
            raise self._server.report.not_found(
                "there are no files.",
                reason=FailureReason.MODEL_EMPTY,
                hint="Check that they were logged, and that this machine can read the place where they are.",
            )
        if path and path not in entries:
            names = ", ".join(sorted(entries)[:_MOST_NAMES_SHOWN])
            raise self._server.report.not_found(
                f"there is no {path!r}.", hint=f"There is: {names}." if names else ""
            )
        check_room(destination, self._size(path, is_folder=entries.get(path, True)))
        self._files.download_artifacts(path, str(destination))
        return destination / path

    def entries(self, folder: str) -> dict[str, bool]:
        """Return the paths directly in a folder, each with whether it is a folder itself."""
        return {entry.path: bool(entry.is_dir) for entry in self._list(folder)}

    def _size(self, path: str, *, is_folder: bool) -> int:
        """Return how many bytes a file or folder has, as far as the store says so."""
        if not is_folder:
            parent = path.rpartition("/")[0]
            return sum(entry.file_size or 0 for entry in self._list(parent) if entry.path == path)
        entries = self._list(path)
        files = sum(entry.file_size or 0 for entry in entries if not entry.is_dir)
        return files + sum(self._size(entry.path, is_folder=True) for entry in entries if entry.is_dir)

    def _list(self, folder: str) -> list[Any]:
        from mlflow.exceptions import MlflowException

        try:
            return list(self._files.list_artifacts(folder or None))
        except (MlflowException, OSError):
            raise
        except Exception as error:
            # Artifact stores raise their client libraries' own classes (botocore, Azure, Google, …).
            raise OSError(f"{type(error).__name__}: {error}") from error


def _fetch_from_run(server: Server, reference: RunArtifact, destination: Path) -> Path:
    """Download a run's artifact: what was logged to the run itself, and the model of that name.

    MLflow 3 keeps a logged model apart from its run, and shows both under one path; so does this.
    """
    run = server.client.get_run(reference.run_id)
    place = _Place(server, run.info.artifact_uri)
    path = reference.path
    name, _, within = path.partition("/")
    in_run = place.entries(path.rpartition("/")[0]) if path else {}
    model = _logged_model(server, run, name)
    if model is not None and (path not in in_run or (not within and in_run[path])):
        _Place(server, model.artifact_location).fetch(within, _folder(destination / name))
    if model is None or path in in_run:
        place.fetch(path, destination)
    return destination / path


def _logged_model(server: Server, run: Any, name: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    # Characters that no logged model's name has, and that would end the filter's string.
    if not name or any(character in name for character in "\"':.%"):
        return None
    token: str | None = None
    while True:
        try:
            page = server.client.search_logged_models(
                [run.info.experiment_id], filter_string=f"name = '{name}'", page_token=token
            )
        except MlflowException as error:
            if error.error_code == _NO_SUCH_ENDPOINT:  # a server older than MLflow 3
                return None
            raise
        for model in page:
            if model.source_run_id == run.info.run_id:
                return model
        token = page.token
        if not token:
            return None


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
