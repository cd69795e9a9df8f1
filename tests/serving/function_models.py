"""MLflow models for tests, made without MLflow's slow saving: a folder says which function here predicts."""

import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {}


class _Function:
    def __init__(self, predict: Callable[[Any], Any]) -> None:
        self._predict = predict

    def predict(self, data: Any, params: Any = None) -> Any:
        return self._predict(data)


def _load_pyfunc(path: str) -> _Function:
    return _Function(_FUNCTIONS[Path(path).read_text()])


def save(
    folder: Path,
    predict: Callable[[Any], Any],
    *,
    inputs: list[ColSpec] | list[TensorSpec] | None = None,
    outputs: list[ColSpec] | None = None,
) -> Path:
    """Save a model that can be loaded in this process."""
    name = uuid.uuid4().hex
    _FUNCTIONS[name] = predict
    folder.mkdir(parents=True)
    (folder / "name").write_text(name)
    signature = ModelSignature(Schema(inputs), outputs and Schema(outputs)) if inputs else None
    model = Model(signature=signature)
    model.add_flavor(
        "python_function", loader_module=__name__, data="name", python_version=platform.python_version()
    )
    model.save(str(folder / "MLmodel"))
    return folder
