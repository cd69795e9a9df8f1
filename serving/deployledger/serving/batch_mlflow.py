"""Scoring rows with an MLflow model, whatever its flavour, through ``mlflow.pyfunc``."""

from importlib import import_module
from pathlib import Path
from typing import Any

from deployledger.serving.batch_rows import Row
from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.model_files import ModelFiles
from deployledger.serving.tensors import to_json


class MlflowScorer:
    """Scores chunks of rows as data frames with the rows' columns.

    A column is cast to the type that the model's signature gives it; without one, texts that are all numbers
    become numbers.

    Raises:
        ModelDamagedError: a file of the model is not what it should be.
        BatchError: the model cannot be loaded.
    """

    def __init__(self, model: Path, files: ModelFiles | None) -> None:
        import mlflow.pyfunc

        if files is not None:
            files.check()

        # MLflow's own dependency; imported this way, because it has no types.
        self._pandas: Any = import_module("pandas")
        try:
            self._model = mlflow.pyfunc.load_model(str(model))
        except Exception as error:  # a flavour loads with whatever library it is of
            raise BatchError("model_invalid", f"MLflow cannot load the model: {error}") from error
        self._types: dict[str, Any] = {}
        schema: Any = self._model.metadata.get_input_schema()
        if schema is not None and schema.has_input_names() and not schema.is_tensor_spec():
            self._types = dict(zip(schema.input_names(), schema.pandas_types(), strict=True))

    def score(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return the predictions for each row.

        Raises:
            BatchError: the rows do not fit the model's signature, or the model fails.
        """
        pd = self._pandas
        frame = pd.DataFrame([row.values for row in rows])
        for column in frame.columns:
            frame[column] = self._cast(frame[column], rows)
        try:
            predicted = self._model.predict(frame)
        except Exception as error:  # a flavour predicts with whatever library it is of
            raise BatchError("batch_failed", f"The model failed on a chunk of rows: {error}") from error
        table = predicted if isinstance(predicted, pd.DataFrame) else pd.DataFrame({"": list(predicted)})
        if len(table) != len(rows):
            raise BatchError("batch_failed", f"The model made {len(table)} predictions for {len(rows)} rows.")
        columns = {
            f"prediction_{name}" if str(name) else "prediction": _plain(table[name]) for name in table.columns
        }
        return [{key: values[index] for key, values in columns.items()} for index in range(len(rows))]

    def _cast(self, column: Any, rows: list[Row]) -> Any:
        pd = self._pandas
        wanted = self._types.get(column.name)
        try:
            if wanted is not None:
                return column.astype(wanted)
            return pd.to_numeric(column) if pd.api.types.is_string_dtype(column) else column
        except (ValueError, TypeError) as error:
            if wanted is None:
                return column  # texts that are not all numbers stay texts
            for row in rows:
                try:
                    pd.Series([row.values[column.name]]).astype(wanted)
                except (ValueError, TypeError) as wrong:
                    raise input_invalid(f"Line {row.line}, column {column.name!r}: {wrong}.") from wrong
            raise input_invalid(f"Column {column.name!r}: {error}.") from error


def _plain(column: Any) -> list[Any]:
    """Return a column's values as JSON can hold them."""
    import numpy as np

    values = column.to_numpy()
    if values.dtype.kind != "O":
        return to_json(values)
    return [to_json(value) if isinstance(value, np.ndarray) else value for value in values.tolist()]
