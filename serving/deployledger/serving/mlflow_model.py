"""Loading an MLflow model, whatever its flavour, through ``mlflow.pyfunc``."""

import gc
import importlib
import importlib.metadata
import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployledger.serving.model_files import ModelFiles, ModelRefusedError, RuntimeMissingError

_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "LOKY_MAX_CPU_COUNT",  # what n_jobs=-1 of scikit-learn means
)


def load_mlflow_model(folder: Path, threads: int, files: ModelFiles | None) -> Any:
    """Check the files of a model and return it as a `mlflow.pyfunc.PyFuncModel`.

    To be called once, and before numpy is imported: numerical libraries read their number of threads when
    they are loaded. Packages that are not the versions the model was saved with are written to the log.

    Args:
        folder: where its ``MLmodel`` file is.
        threads: how many threads one prediction may use.
        files: what the files must be; None if an earlier version of the gateway did not pass it.

    Raises:
        ModelDamagedError: a file of the model is not what it should be.
        RuntimeMissingError: MLflow needs a package that is not installed to load the model.
        ModelRefusedError: MLflow cannot load it for another reason.
    """
    if files is not None:
        files.check()
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, str(threads)))
    # Arrow's own allocator reserves memory for large tables from the start.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # A model server sends no telemetry.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Nothing of what is imported and loaded becomes garbage. Collecting it would take a fifth of the time to
    # load a model, and later a tenth of a second at each full collection.
    gc.disable()
    try:
        return _load(folder)
    finally:
        gc.freeze()
        gc.enable()


def _load(folder: Path) -> Any:
    unmet = _unmet_requirements(folder / "requirements.txt")
    try:
        if b"serialization_format: skops" in (folder / "MLmodel").read_bytes():
            # It searches all loaded modules for each of some 800 functions: half a second less before MLflow.
            with suppress(ImportError):
                importlib.import_module("skops.io")
        from mlflow.pyfunc import load_model

        # MLflow's own warnings about versions look at every file of every installed package.
        model = load_model(str(folder), suppress_warnings=True)
    except ModuleNotFoundError as error:
        versions = f" (its requirements.txt: {'; '.join(unmet)})" if unmet else ""
        raise RuntimeMissingError(
            f"It needs the module {error.name!r}, which is not installed{versions}."
        ) from error
    except Exception as error:  # a flavour loads with whatever library it is of
        traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())
        versions = f" It was saved with other versions: {'; '.join(unmet)}." if unmet else ""
        raise ModelRefusedError(f"MLflow cannot load it: {what}{versions}") from error
    for each in unmet:
        print(f"The model was saved with {each}.", flush=True)  # noqa: T201 - the log
    return model


def _unmet_requirements(path: Path) -> list[str]:
    """Return the requirements of a model that this environment does not meet, and what it has instead."""
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option of pip, or a path
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        # mlflow-skinny has all that serving needs.
        name = "mlflow-skinny" if requirement.name == "mlflow" else requirement.name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{requirement} (not installed)")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                unmet.append(f"{requirement} ({version} is installed)")
    return unmet
