"""The columns of a batch job's predictions: decided by the first rows, and kept to."""

import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from deployledger.serving.batch_outputs import OutputColumns
from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_table import RowsError

NAN = float("nan")
UTC = datetime.UTC
DAY = datetime.date(2026, 3, 29)
NOON = datetime.datetime(2026, 3, 29, 12)


def written(values: Any, *, is_flat: bool = False) -> pa.RecordBatch:
    columns = OutputColumns({}, is_flat=is_flat, misfit="fail")
    return columns.batch({"p": values}, len(values))


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([1, NAN, None], pa.int64(), [1, None, None]),
        ([2**63], pa.uint64(), [2**63]),
        ([np.int8(1), np.uint8(200)], pa.int16(), [1, 200]),
        ([np.float32(0.1), None], pa.float32(), [float(np.float32(0.1)), None]),
        ([np.float16(1.5)], pa.float16(), [1.5]),
        ([True, None, pd.NA], pa.bool_(), [True, None, None]),
        (["02134", NAN, None, pd.NA], pa.string(), ["02134", None, None, None]),
        ([np.str_("é")], pa.string(), ["é"]),
        ([b"\x00", bytearray(b"a")], pa.binary(), [b"\x00", b"a"]),
        ([DAY, pd.NaT], pa.date32(), [DAY, None]),
        ([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "UTC"), [NOON.replace(tzinfo=UTC)]),
        ([np.datetime64("2026-03-29T12", "h")], pa.timestamp("s"), [NOON]),
        ([np.datetime64("NaT"), np.datetime64("2026-03-29")], pa.date32(), [None, DAY]),
        ([pd.Timestamp(5, unit="ns")], pa.timestamp("ns"), [pd.Timestamp(5, unit="ns")]),
        ([datetime.time(1, 2)], pa.time64("us"), [datetime.time(1, 2)]),
        ([pd.Timedelta("1D"), pd.NaT], pa.duration("us"), [datetime.timedelta(days=1), None]),
        ([np.timedelta64(3, "D")], pa.duration("s"), [datetime.timedelta(days=3)]),
        ([Decimal("1.5"), Decimal("0.125")], pa.decimal128(23, 3), [Decimal("1.500"), Decimal("0.125")]),
        ([Decimal("sNaN"), Decimal("1E-57")], pa.decimal256(76, 57), [None, Decimal("1E-57")]),
        ([Decimal("NaN"), 2, Decimal("1.5")], pa.decimal128(21, 1), [None, Decimal("2.0"), Decimal("1.5")]),
        ([Decimal(10) ** 40], pa.decimal256(41, 0), [Decimal(10) ** 40]),
        ([UUID(int=1)], pa.string(), ["00000000-0000-0000-0000-000000000001"]),
        ([pd.Period("2026-03"), pd.Interval(0, 1)], pa.string(), ["2026-03", "(0, 1]"]),
        ([(1, 2), []], pa.list_(pa.int64()), [[1, 2], []]),
        ([[[1.5]], None], pa.list_(pa.list_(pa.float64())), [[[1.5]], None]),
        ([np.array(["2026"], "M8[Y]")], pa.list_(pa.timestamp("s")), [[datetime.datetime(2026, 1, 1)]]),
        ([np.zeros((1, 2), "f4")], pa.list_(pa.list_(pa.float32())), [[[0.0, 0.0]]]),
        ([np.array(["a", None], object)], pa.list_(pa.string()), [["a", None]]),
        ([{1: "x"}], pa.struct([("1", pa.string())]), [{"1": "x"}]),
        ([None, None], pa.null(), [None, None]),
    ],
    ids=repr,
)
def test_python_values_have_a_type_and_no_loss(
    values: list[Any], kind: pa.DataType, cells: list[Any]
) -> None:
    column = written(values).column("p")
    assert column.type == kind
    assert column.to_pylist() == cells


def test_nan_in_floats_is_not_a_missing_value() -> None:
    column = written([1.5, NAN, None]).column("p")
    assert column.null_count == 1
    assert np.isnan(column[1].as_py())


@pytest.mark.parametrize(
    ("values", "wrong", "reason"),
    [
        ([1, "a"], 1, "expected int64, got string"),
        ([True, 1], 1, "expected bool, got int64"),
        (["a", b"b"], 0, "expected binary, got string 'a'"),
        ([[1], ["a"]], 1, "expected list<item: int64>, got list<item: string>"),
        ([-1, 2**63], 1, "9223372036854775808 is not exactly representable as int64"),
        ([2**64], 0, "cannot write a value of type int: 18446744073709551616"),
        ([Decimal("1.5"), 2.5], 0, "Decimal('1.5') is not exactly representable as double"),
        ([DAY, NOON], 1, "expected date32[day], got timestamp[us]"),
        ([1 + 2j], 0, "cannot write a value of type complex"),
        ([...], 0, "cannot write a value of type ellipsis"),
        ([{1, 2}], 0, "cannot write a value of type set: {1, 2}"),
        ([np.longdouble(1)], 0, "cannot write values of the NumPy type float128"),
        (
            [NOON, NOON.replace(tzinfo=UTC)],
            1,
            "expected timestamp[us], got timestamp[us, tz=UTC]",
        ),
        ([Decimal(10) ** 80], 0, "cannot write a value of type Decimal"),
        ([Decimal("Infinity")], 0, "cannot write a value of type Decimal"),
        (["a", "\ud800"], 1, "cannot write a value of type str"),
        ([None, 1.5, "\ud800"], 2, "expected double, got string"),
    ],
    ids=repr,
)
def test_values_without_a_common_type_are_named(values: list[Any], wrong: int, reason: str) -> None:
    with pytest.raises(RowsError) as failed:
        written(values)
    assert list(failed.value.problems) == [wrong]
    assert reason in failed.value.problems[wrong].reason
    assert failed.value.problems[wrong].value == str(values[wrong])


LATER: list[tuple[list[Any], Any, str]] = [
    ([1], 2.5, "expected int64, got double 2.5"),
    ([1], float("inf"), "expected int64, got double inf"),
    ([1], 2**63, "is not exactly representable as int64"),
    ([1.5], 2**1100, "cannot write a value of type int"),
    ([1.5], 2**60 + 1, "is not exactly representable as double"),
    (["a"], 1, "expected string, got int64"),
    ([None], "a", "expected null, got string"),
    ([DAY], NOON, "expected date32[day], got"),
    ([Decimal("1.5")], Decimal("1.25"), "expected decimal128(21, 1), got decimal128(22, 2)"),
    ([{"a": 1}], {"a": 1, "b": 2}, "unknown key 'b': the first rows do not have it"),
    ([np.zeros(2, "f4")], np.zeros(2, "f8"), "expected float, got double"),
    ([np.zeros(2)], np.zeros(3), "more elements than in the first rows"),
    ([[[1, 2]]], [[1, 2, 3]], "more elements than in the first rows"),
    ([{"a": [1]}], {"a": [1, 2]}, "more elements than in the first rows"),
]


@pytest.mark.parametrize(("first", "later", "reason"), LATER, ids=repr)
def test_a_later_row_that_does_not_fit_fails_or_is_null(first: list[Any], later: Any, reason: str) -> None:
    columns = OutputColumns({}, is_flat=True, misfit="fail")
    columns.batch({"p": first}, 1)
    with pytest.raises(RowsError) as failed:
        columns.batch({"p": [first[0], later]}, 2)
    assert list(failed.value.problems) == [1]
    assert reason in failed.value.problems[1].reason
    # as in another process, or a job that goes on
    lenient = OutputColumns({}, is_flat=True, misfit="null", schema=columns.schema)
    batch = lenient.batch({"p": [first[0], later]}, 2)
    assert batch.schema.equals(columns.schema)
    assert set(batch.slice(1).to_pylist()[0].values()) == {None}


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        ([1], [2.0, NAN], [2, None]),
        ([1.5], [2, None], [2.0, None]),
        ([pd.Timestamp(1)], [NOON], [pd.Timestamp(NOON)]),
        ([Decimal("1.5")], [2], [Decimal("2.0")]),
        ([{"label": "a", "score": 1.5}], [{"score": 2, "label": "b"}, {}], None),
        ([[1, 2]], [[3], [], None], [[3], [], None]),
    ],
    ids=repr,
)
def test_a_later_value_that_is_held_exactly_fits(first: list[Any], later: list[Any], expected: Any) -> None:
    columns = OutputColumns({}, is_flat=False, misfit="fail")
    columns.batch({"p": first}, len(first))
    expected = expected or [{"label": "b", "score": 2.0}, {"label": None, "score": None}]
    assert columns.batch({"p": later}, len(later)).column("p").to_pylist() == expected


def test_instants_of_other_zones_fit_a_zoned_column() -> None:
    columns = OutputColumns({}, is_flat=False, misfit="fail")
    east = datetime.timezone(datetime.timedelta(hours=2))
    columns.batch({"p": [NOON.replace(tzinfo=UTC)]}, 1)
    assert columns.batch({"p": [NOON.replace(tzinfo=east)]}, 1).column("p").to_pylist() == [
        NOON.replace(tzinfo=UTC, hour=10)
    ]


def test_flat_cells_have_a_column_for_each_element_and_key() -> None:
    values = [{"v": [1, 2], "m": np.eye(2, dtype="i1"), "n": {"x": None}}, {"v": [3]}, None]
    assert written(values, is_flat=True).to_pydict() == {
        "p_v_0": [1, 3, None],
        "p_v_1": [2, None, None],
        "p_m_0_0": [1, None, None],
        "p_m_0_1": [0, None, None],
        "p_m_1_0": [0, None, None],
        "p_m_1_1": [1, None, None],
        "p_n_x": [None, None, None],
    }


def test_wide_arrays_are_never_abbreviated() -> None:
    batch = written([np.arange(1500, dtype=np.float32) / 7] * 3, is_flat=True)
    assert batch.schema.names == [f"p_{index}" for index in range(1500)]
    assert batch.column("p_1499").to_pylist() == [float(np.float32(1499) / np.float32(7))] * 3


def test_a_declared_type_extends_what_the_first_rows_say() -> None:
    declared = {"n": pa.float64(), "text": pa.string(), "other": pa.float64()}
    columns = OutputColumns(declared, is_flat=False, misfit="fail")
    batch = columns.batch({"n": [1], "text": [None], "other": ["a"]}, 1)
    assert batch.schema.types == [pa.float64(), pa.string(), pa.string()]
    assert columns.batch({"n": [2.5], "text": ["b"], "other": ["b"]}, 1).num_rows == 1


def test_columns_in_another_order_are_the_same() -> None:
    columns = OutputColumns({}, is_flat=True, misfit="fail")
    columns.batch({"a": [1], "b": ["x"]}, 1)
    assert columns.batch({"b": ["y"], "a": [2]}, 1).to_pydict() == {"a": [2], "b": ["y"]}


def test_other_columns_than_the_first_rows_had_are_refused() -> None:
    columns = OutputColumns({}, is_flat=True, misfit="null")
    columns.batch({"a": [1]}, 1)
    with pytest.raises(BatchError, match="returned the columns a, b; for the first rows it returned a"):
        columns.batch({"a": [1], "b": [2]}, 1)


def test_empty_values_are_refused_only_where_they_have_no_column() -> None:
    assert written([[], []]).to_pydict() == {"p": [[], []]}
    with pytest.raises(BatchError, match="empty arrays"):
        written([[], []], is_flat=True)
    with pytest.raises(RowsError) as failed:
        written([{}, None])
    assert failed.value.problems[0].reason == "an empty dictionary has no type"
    assert written([{}, {"a": 1}]).to_pydict() == {"p": [{"a": None}, {"a": 1}]}


def test_names_that_are_taken_are_refused() -> None:
    columns = OutputColumns({"p": pa.null()}, is_flat=False, misfit="fail")
    with pytest.raises(BatchError, match="has a column 'p' already"):
        columns.reserve(["x", "p"])
    flat = OutputColumns({"p": pa.null()}, is_flat=True, misfit="fail")
    flat.reserve(["p", "p_0"])  # an array in the output has no column p
    with pytest.raises(BatchError, match="has a column 'p_0' already"):
        flat.batch({"p": [[1, 2]]}, 1)
    with pytest.raises(BatchError, match="two predictions named 'q_0'"):
        OutputColumns({}, is_flat=True, misfit="fail").batch({"q_0": [1], "q": [[1]]}, 1)
