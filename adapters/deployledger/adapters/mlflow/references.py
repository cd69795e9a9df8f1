"""The model URIs of MLflow, read into what they refer to.

The grammar is MLflow's own (https://mlflow.org/docs/latest/ml/model-registry/), with ``mlflow_runs:/`` as a
second spelling of ``runs:/``.
"""

import re
from dataclasses import dataclass

from deployledger.domain.exceptions import ConfigurationError

_FORMS = (
    "Use models:/<name>/<version>, models:/<name>/latest, models:/<name>@<alias>, models:/m-<id> or "
    "runs:/<run id>/<path>; write a path that looks like a URI as ./like:this."
)
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_LOGGED_MODEL_ID = re.compile(r"m-[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model; with no version, alias or stage, its latest one.

    Attributes:
        name: the registered model.
        version: the version's number.
        alias: a movable name of one version.
        stage: the latest version in this stage.
        path: a file or folder within the model, or an empty string for all of it.
    """

    name: str
    version: str | None = None
    alias: str | None = None
    stage: str | None = None
    path: str = ""

    def pinned(self, version: str) -> "RegisteredModel":
        """Return the reference to exactly this version."""
        return RegisteredModel(self.name, version=version, path=self.path)

    def __str__(self) -> str:
        selector = f"@{self.alias}" if self.alias else f"/{self.version or self.stage or 'latest'}"
        return _joined(f"models:/{self.name}{selector}", self.path)


@dataclass(frozen=True)
class LoggedModel:
    """A model by its own id, as MLflow 3 gives to every model that is logged."""

    model_id: str

    def __str__(self) -> str:
        return f"models:/{self.model_id}"


@dataclass(frozen=True)
class RunArtifact:
    """A file or folder of a run; with an empty path, all the run's artifacts."""

    run_id: str
    path: str = ""

    def __str__(self) -> str:
        return _joined(f"runs:/{self.run_id}", self.path)


ModelReference = RegisteredModel | LoggedModel | RunArtifact


def parse_reference(model_uri: str) -> ModelReference:
    """Read a model URI.

    Raises:
        ConfigurationError: it is not a model URI of MLflow.
    """
    scheme, separator, rest = model_uri.partition(":/")
    if separator and scheme == "models":
        return _model(model_uri, rest)
    if separator and scheme in ("runs", "mlflow_runs"):
        run_id, _, path = rest.partition("/")
        return run_artifact(run_id, path)
    raise _malformed(model_uri)


def run_artifact(run_id: str, path: str) -> RunArtifact:
    """Return a checked reference to a run's artifact.

    Raises:
        ConfigurationError: the run id or the path cannot be one.
    """
    reference = RunArtifact(run_id, path.rstrip("/"))
    if not _RUN_ID.fullmatch(run_id):
        raise _malformed(str(reference))
    _check_path(str(reference), reference.path)
    return reference


def _model(model_uri: str, rest: str) -> RegisteredModel | LoggedModel:
    first, _, others = rest.rstrip("/").partition("/")
    name, at, alias = first.rpartition("@")
    if at:
        reference = RegisteredModel(name, alias=alias, path=others)
        parts = [name, alias]
    elif others:
        selector, _, path = others.partition("/")
        reference = _selected(first, selector, path)
        parts = [first, selector]
    elif _LOGGED_MODEL_ID.fullmatch(first):
        return LoggedModel(first)
    else:
        raise _malformed(model_uri)
    if not all(part.strip() for part in parts):
        raise _malformed(model_uri)
    _check_path(model_uri, reference.path)
    return reference


def _selected(name: str, selector: str, path: str) -> RegisteredModel:
    if selector.isascii() and selector.isdigit():
        return RegisteredModel(name, version=str(int(selector)), path=path)
    if selector.lower() == "latest":
        return RegisteredModel(name, path=path)
    return RegisteredModel(name, stage=selector, path=path)


def _check_path(model_uri: str, path: str) -> None:
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise _malformed(model_uri)


def _joined(base: str, path: str) -> str:
    return f"{base}/{path}" if path else base


def _malformed(model_uri: str) -> ConfigurationError:
    return ConfigurationError(f"{model_uri!r} is not a model URI that MLflow understands.", hint=_FORMS)
