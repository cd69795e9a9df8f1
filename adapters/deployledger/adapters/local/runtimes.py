"""Which server runs which model format."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployledger.adapters.local.processes import python_command
from deployledger.domain.exceptions import DeploymentError
from deployledger.domain.reasons import FailureReason
from deployledger.gateway import PARENT_FD, PORT
from deployledger.serving import ModelFiles


@dataclass(frozen=True)
class Serving:
    """What a replica's command line depends on."""

    files: ModelFiles
    deployment_name: str
    revision: int
    threads: int
    max_body_bytes: int


@dataclass(frozen=True)
class Runtime:
    """How models of one format are served.

    Attributes:
        format: what the format is called.
        extra: what to install to have the runtime.
        modules: what must be importable.
        find: returns the model's path inside of an extracted artifact, or None if it is of another format.
        server: the module of the server.
        ready_path: answers 200 when the replica is ready.
    """

    format: str
    extra: str
    modules: tuple[str, ...]
    find: Callable[[Path], Path | None]
    server: str
    ready_path: str

    def command(self, model: Path, serving: Serving) -> list[str]:
        """Return the command of a replica."""
        return python_command(
            self.server,
            *("--model", str(model)),
            *("--name", serving.deployment_name),
            *("--version", str(serving.revision)),
            *("--port", PORT),
            *("--threads", str(serving.threads)),
            *("--max-body", str(serving.max_body_bytes)),
            *("--parent-fd", PARENT_FD),
            *serving.files.arguments(),
        )


def _shallowest(root: Path, pattern: str) -> list[Path]:
    """Return the files that match in the folder nearest to the root that has any."""
    files = sorted(path for path in root.rglob(pattern) if path.is_file())
    depth = min((len(path.parts) for path in files), default=0)
    return [path for path in files if len(path.parts) == depth]


def _find_mlflow(root: Path) -> Path | None:
    models = _shallowest(root, "MLmodel")
    return models[0].parent if len(models) == 1 else None


def _find_onnx(root: Path) -> Path | None:
    models = _shallowest(root, "*.onnx")
    named = [path for path in models if path.name == "model.onnx"]
    if len(named) == 1:
        return named[0]
    if len(models) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in models)
        raise _AmbiguousModelError(names)
    return models[0] if models else None


class _AmbiguousModelError(Exception):
    """Several files could be the model."""


RUNTIMES = (
    Runtime(
        "MLflow model",
        "'deployledger[mlflow]'",
        ("mlflow", "orjson", "pandas", "uvicorn"),
        _find_mlflow,
        "deployledger.serving.mlflow_server",
        "/ping",
    ),
    Runtime(
        "ONNX",
        "'deployledger[onnx]'",
        ("msgspec", "onnxruntime", "orjson", "uvicorn"),
        _find_onnx,
        "deployledger.serving.onnx_server",
        "/v2/health/ready",
    ),
)
"""In the order in which they are tried: an MLflow model may well hold an ONNX file."""


def runtime_of(root: Path, deployment_name: str) -> tuple[Runtime, Path]:
    """Return the runtime for the model extracted to ``root``, and the path that the runtime is to load.

    Raises:
        DeploymentError: no runtime knows the format, the runtime is not installed, or several files could be
            the model.
    """
    for runtime in RUNTIMES:
        try:
            model = runtime.find(root)
        except _AmbiguousModelError as error:
            raise DeploymentError(
                deployment_name,
                f"The model of {deployment_name!r} has several ONNX files ({error}) and none is model.onnx.",
                reason=FailureReason.MODEL_INVALID,
                hint="Deploy one file, or name the one to serve model.onnx.",
            ) from None
        if model is not None:
            _check_installed(runtime, deployment_name)
            return runtime, model
    formats = "; ".join(f"{runtime.format} (pip install {runtime.extra})" for runtime in RUNTIMES)
    raise DeploymentError(
        deployment_name,
        f"The model of {deployment_name!r} has no format that can be served on this machine.",
        reason=FailureReason.UNSUPPORTED_FORMAT,
        hint=f"Supported formats: {formats}.",
    )


def _check_installed(runtime: Runtime, deployment_name: str) -> None:
    missing = [module for module in runtime.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise DeploymentError(
            deployment_name,
            f"Serving {deployment_name!r} needs modules that are not installed: {', '.join(missing)}.",
            reason=FailureReason.RUNTIME_MISSING,
            hint=f"Run `pip install {runtime.extra}`.",
        )
