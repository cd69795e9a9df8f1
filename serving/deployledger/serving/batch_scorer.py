"""Which scorer scores which model."""

from pathlib import Path

import pyarrow as pa

from deployledger.serving.batch_outputs import Misfit, OutputColumns
from deployledger.serving.batch_table import Scorer
from deployledger.serving.model_files import ModelFiles


def load_scorer(
    model: Path,
    threads: int,
    files: ModelFiles | None,
    *,
    flat: bool,
    misfit: Misfit = "fail",
    output: pa.Schema | None = None,
) -> Scorer:
    """Load an ONNX file, or an MLflow model's folder.

    Args:
        model: the file or folder.
        threads: how many threads compute one prediction.
        files: what the model's files are checked against.
        flat: whether every cell of the output has to be a single value, as in CSV.
        misfit: what becomes of a row whose prediction does not fit the output's columns.
        output: the columns of the predictions, where they are decided already.

    Raises:
        ModelDamagedError: a file of the model is not what it should be.
        BatchError: the model cannot be loaded.
    """
    columns = OutputColumns(is_flat=flat, misfit=misfit)
    columns.schema = output
    # Here, because either import takes a while, and the other one's library may not be installed.
    if model.is_dir():
        from deployledger.serving.batch_mlflow import MlflowScorer

        return MlflowScorer(model, files, columns)
    from deployledger.serving.batch_onnx import OnnxScorer

    return OnnxScorer(model, threads, files, columns)
