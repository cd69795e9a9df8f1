"""The columns of a batch job's predictions, decided once for the job.

The first rows, and the model's signature, decide the names and types. A later row that does not fit them
fails, or has nulls. Where every cell has to be a single value, as in CSV, an array has a column for each
element (``prediction_0``, …),
as many as the longest array of the first rows, and a dictionary one for each key.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.types as kinds

from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import RowProblem, RowsError
from deployledger.serving.batch_values import (
    MisfitError,
    column_of,
    merge,
    misfits_of,
    shortened,
    type_of_all,
)

# Imported this way, because its functions are made at run time, and have no types.
pc: Any = import_module("pyarrow.compute")

Misfit = Literal["fail", "null"]
Values: TypeAlias = "pa.Array | list[Any]"
"""An output: one value for each row."""

_NESTED = b"deployledger.types"
_HINT = (
    "Have the model return the same columns and types for every row, or write nulls for rows that do not fit."
)


class OutputColumns:
    """Builds the output's columns from what a model returns.

    Args:
        declared: the names of outputs, and the types that the model's signature gives; they extend what the
            first rows say.
        is_flat: whether every cell has to be a single value.
        misfit: what happens to a row that does not fit: it fails, or gets nulls.
        schema: the columns, where they are decided already.

    Attributes:
        schema: the columns; None before the first rows.
    """

    def __init__(
        self,
        declared: Mapping[str, pa.DataType],
        *,
        is_flat: bool,
        misfit: Misfit,
        schema: pa.Schema | None = None,
    ) -> None:
        self.schema = schema
        self._declared = declared
        self._input_names: frozenset[str] = frozenset()
        self._is_flat = is_flat
        self._misfit = misfit

    def reserve(self, input_names: Sequence[str]) -> None:
        """Check the names of outputs, as far as they are known before anything is scored.

        Raises:
            BatchError: a column of the input has the same name.
        """
        self._input_names = frozenset(input_names)
        if not self._is_flat:
            self._check(list(self._declared))

    def _check(self, names: Sequence[str]) -> None:
        if taken := [name for name in names if name in self._input_names]:
            raise input_invalid(
                f"The input has a column {taken[0]!r} already.",
                hint="Rename that column: the output has the predictions under this name.",
            )

    def batch(self, outputs: Mapping[str, Values], rows: int) -> pa.RecordBatch:
        """Return the columns for outputs that have one value for each row.

        Raises:
            RowsError: rows do not fit the columns.
            BatchError: the outputs are not named as for the first rows, or like a column of the input.
        """
        nested = self._nested or pa.schema([(name, self._type_of(name, outputs[name])) for name in outputs])
        if set(outputs) != set(nested.names):
            raise BatchError(
                "batch_failed",
                f"The model returned the columns {', '.join(outputs)}; for the first rows it returned "
                f"{', '.join(nested.names)}.",
                _HINT,
            )
        problems: dict[int, RowProblem] = {}
        cells: list[tuple[str, pa.Array]] = []
        known = frozenset(self.schema.names if self.schema else ())
        for name, kind in zip(nested.names, nested.types, strict=True):
            column, misfits = _fitted(outputs[name], kind)
            flat = list(_flat(name, column)) if self._is_flat else [(name, column)]
            for extra, elements in flat:
                if self.schema is not None and extra not in known:
                    more = pc.indices_nonzero(elements.is_valid()).to_pylist()
                    misfits = dict.fromkeys(more, "more elements than in the first rows") | misfits
            if misfits and self._misfit == "null":
                kept = pa.array([None if row in misfits else row for row in range(rows)], pa.int64())
                flat = [(each, elements.take(kept)) for each, elements in flat]
            elif misfits:
                problems = _problems(name, outputs[name], misfits) | problems
            cells += flat
        if problems:
            raise RowsError(problems)
        schema = self.schema or self._named(nested, cells)
        by_name = dict(cells)
        columns = [by_name.get(field.name, pa.nulls(rows, field.type)) for field in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    @property
    def _nested(self) -> pa.Schema | None:
        return self.schema and pa.ipc.read_schema(pa.py_buffer(self.schema.metadata[_NESTED]))

    def _type_of(self, name: str, values: Values) -> pa.DataType:
        misfits: dict[int, str] = {}
        try:
            decided = type_of_all(values) if isinstance(values, list) else values.type
        except MisfitError:
            misfits, decided = misfits_of(values)
        if misfits and self._misfit == "fail":
            raise RowsError(_problems(name, values, misfits))
        with suppress(MisfitError):  # a model may return other types than its signature says
            decided = merge([decided, self._declared.get(name, decided)])
        return decided

    def _named(self, nested: pa.Schema, cells: Sequence[tuple[str, pa.Array]]) -> pa.Schema:
        names = [name for name, _ in cells]
        if not names:
            raise BatchError(
                "batch_failed",
                "The predictions of the first rows are empty arrays: they have no columns.",
                "Write JSON lines, Parquet or Arrow.",
            )
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise BatchError("batch_failed", f"The model has two predictions named {twice[0]!r}.", _HINT)
        self._check(names)
        fields = [(name, column.type) for name, column in cells]
        self.schema = pa.schema(fields, {_NESTED: nested.serialize().to_pybytes()})
        return self.schema


def _problems(name: str, values: Any, misfits: Mapping[int, str]) -> dict[int, RowProblem]:
    return {
        row: RowProblem(name, shortened(_python(values[row]), str), reason, _HINT)
        for row, reason in misfits.items()
    }


def _fitted(values: Values, wanted: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    if not isinstance(values, list):
        if values.type == wanted:
            return values, {}
        values = values.to_pylist()
    return column_of(values, wanted)


def _flat(name: str, column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Yield a column for each element and key of a nested one."""
    if kinds.is_struct(column.type):
        for index, field in enumerate(column.type):
            yield from _flat(f"{name}_{field.name}", pc.struct_field(column, [index]))
    elif kinds.is_list(column.type):
        width = pc.max(pc.list_value_length(column)).as_py() or 0
        padded = pc.list_slice(column, 0, width, return_fixed_size_list=True) if width else column
        for index in range(width):
            yield from _flat(f"{name}_{index}", pc.list_element(padded, index))
    else:
        yield name, column


def _python(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value
