"""MLflow models that take rows, whatever their flavour, through ``mlflow.pyfunc``.

A model whose signature has columns gets a data frame of these, in the signature's types; one whose signature
has tensors gets arrays; one without a signature gets a data frame of all columns, in types decided once for
the job (https://mlflow.org/docs/latest/ml/model/signatures/).
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from deployledger.serving.batch_outputs import Values
from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import InputColumn, ModelFailedError, RowsError
from deployledger.serving.batch_tensors import TensorInput, TensorInputs
from deployledger.serving.batch_types import plain
from deployledger.serving.batch_values import MisfitError, array_of
from deployledger.serving.model_files import ModelFiles

_INTEGER_HINT = (
    "Fill in the value, or save the model with a signature in which the column is a double: "
    "integers cannot be missing."
)
_LONGEST_MESSAGE = 200


class MlflowRows:
    """An MLflow model that takes rows: a `RowsModel`.

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
        self._schema: Any = self._model.metadata.get_input_schema()
        self._tensors: TensorInputs | None = None
        if self._schema is not None and self._schema.is_tensor_spec():
            self._tensors = TensorInputs([_tensor_input(spec) for spec in self._schema.inputs])
        self.outputs = _outputs(self._model.metadata.get_output_schema())

    def columns(self, names: Sequence[str]) -> list[InputColumn]:
        """Return the columns of the signature, without one all; BatchError if the signature has others."""
        if self._tensors is not None:
            return self._tensors.columns(names)
        if self._schema is None:
            return [InputColumn(name) for name in names]
        specs = list(self._schema.inputs)
        unnamed = [*names, *(f"number {n}" for n in range(len(names) + 1, len(specs) + 1))]
        wanted = self._schema.input_names() if self._schema.has_input_names() else unnamed[: len(specs)]
        available = frozenset(names)
        required = [name for name, spec in zip(wanted, specs, strict=True) if spec.required]
        if missing := [name for name in required if name not in available]:
            raise input_invalid(
                f"The model's signature has the column {missing[0]!r}, but the rows have the columns "
                f"{', '.join(names)}.",
                hint="Name the columns as the signature does.",
            )
        return [
            _input(name, spec.type) for name, spec in zip(wanted, specs, strict=True) if name in available
        ]

    def predict(self, rows: pa.RecordBatch) -> dict[str, Values]:
        """Return the outputs; RowsError, ModelFailedError or BatchError if there are none."""
        try:
            predicted = self._model.predict(self._data(rows))
        except RowsError:
            raise
        except Exception as error:  # a flavour predicts with whatever library it is of
            # MLflow's message has all of the data in it, before the error.
            text = str(error).rpartition("Error: ")[2].rstrip(".") or type(error).__name__
            raise ModelFailedError(shorten(text, _LONGEST_MESSAGE, placeholder="…")) from error
        try:
            return {name: self._values(name, values) for name, values in self._named(predicted)}
        except MisfitError as error:
            raise BatchError("batch_failed", f"The model's predictions: {error}.") from error

    def _data(self, rows: pa.RecordBatch) -> Any:
        if self._tensors is None:
            columns = zip(rows.schema, rows.columns, strict=True)
            return self._pandas.DataFrame(
                {field.name: self._series(field, cells) for field, cells in columns}
            )
        # Models change their inputs, which columns of Arrow do not allow.
        tensors = {
            name: np.require(tensor, requirements="W") for name, tensor in self._tensors.tensors(rows).items()
        }
        return tensors.get("", tensors)

    def _series(self, field: pa.Field, column: pa.Array) -> Any:
        """Return a column as pandas reads it; see docs/batch-types.md."""
        if kinds.is_boolean(field.type) and column.null_count + (self._schema is None and field.nullable):
            return self._pandas.Series(column.to_pylist(), dtype=object)
        if kinds.is_integer(field.type) and self._schema is None and field.nullable:
            return column.to_numpy(zero_copy_only=False).astype(np.float64)
        if kinds.is_fixed_size_list(field.type):
            column = column.cast(pa.list_(field.type.value_type))
        is_list = kinds.is_list(column.type) and kinds.is_primitive(column.type.value_type)
        if kinds.is_nested(field.type) and not is_list:
            return self._pandas.Series(column.to_pylist(maps_as_pydicts="strict"), dtype=object)
        return column.to_pandas()

    def _named(self, predicted: Any) -> list[tuple[str, Any]]:
        """Return the outputs that the model returned together, each with its name."""
        pd = self._pandas
        is_structured = isinstance(predicted, np.ndarray) and predicted.dtype.names
        if is_structured or isinstance(predicted, pd.DataFrame):
            table = pd.DataFrame(predicted)
            named = [(name, table.iloc[:, index]) for index, name in enumerate(table.columns)]
        elif isinstance(predicted, Mapping):
            named = list(predicted.items())
        elif isinstance(predicted, tuple) and all(
            isinstance(each, list | np.ndarray | pd.Series) for each in predicted
        ):
            named = list(enumerate(predicted))
        else:
            return [("prediction", predicted)]
        texts = ["_".join(map(str, name)) if isinstance(name, tuple) else str(name) for name, _ in named]
        if len(set(texts)) < len(texts):
            raise BatchError(
                "batch_failed", f"The model returned two columns of one name: {', '.join(texts)}."
            )
        return [(f"prediction_{text}", values) for text, (_, values) in zip(texts, named, strict=True)]

    def _values(self, name: str, values: Any) -> Values:
        """Return an output as a column or, if its values are Python objects, as a list of them."""
        if hasattr(values, "toarray"):  # a sparse matrix
            values = values.toarray()
        if isinstance(values, self._pandas.Series):
            return self._column(values)
        if hasattr(values, "__array__") and np.ndim(values):
            array = np.asarray(values)
            return list(array) if array.dtype.kind == "O" else array_of(array)
        if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
            return list(values)
        raise BatchError(
            "batch_failed",
            f"The model returned a single {type(values).__name__} as {name!r}, and not a value for each row.",
        )

    def _column(self, series: Any) -> Values:
        pd = self._pandas
        if isinstance(series.dtype, pd.SparseDtype):
            series = series.sparse.to_dense()
        if series.dtype == object or isinstance(series.dtype, pd.PeriodDtype | pd.IntervalDtype):
            return list(series)
        if isinstance(series.dtype, pd.DatetimeTZDtype):
            utc = array_of(series.dt.tz_convert(None).to_numpy())
            return utc.cast(pa.timestamp(series.dt.unit, series.dt.tz))
        if isinstance(series.dtype, np.dtype):
            return array_of(series.to_numpy())
        column = plain(pa.chunked_array([pa.array(series, from_pandas=False)]).combine_chunks())
        return column.to_pylist(maps_as_pydicts="strict") if kinds.is_nested(column.type) else column


def _input(name: str, of: Any) -> InputColumn:
    wanted = _arrow_type(of)
    if wanted is not None and kinds.is_integer(wanted):
        return InputColumn(name, wanted, nullable=False, hint=_INTEGER_HINT)
    return InputColumn(name, wanted)


def _arrow_type(of: Any) -> pa.DataType | None:
    """Return the Arrow type of a type of MLflow's signatures; None if it may be any."""
    kind = type(of).__name__
    if kind == "DataType":
        return pa.from_numpy_dtype(of.to_numpy())
    if kind == "Array":
        element = _arrow_type(of.dtype)
        return element and pa.list_(element)
    if kind == "Map":
        value = _arrow_type(of.value_type)
        return value and pa.map_(pa.string(), value)
    if kind == "Object":
        fields = [(each.name, _arrow_type(each.dtype)) for each in of.properties]
        return pa.struct(fields) if all(each for _, each in fields) else None
    return None


def _tensor_input(spec: Any) -> TensorInput:
    element = pa.string() if spec.type.kind == "O" else pa.from_numpy_dtype(spec.type)
    return TensorInput(spec.name or "", element, spec.shape[1:])


def _outputs(schema: Any) -> dict[str, pa.DataType]:
    """Return the types of the outputs that a signature has as columns."""
    if schema is None or schema.is_tensor_spec():
        return {}
    types = {
        f"prediction_{spec.name}" if spec.name else "prediction": _arrow_type(spec.type)
        for spec in schema.inputs
    }
    return {name: kind for name, kind in types.items() if kind is not None}
