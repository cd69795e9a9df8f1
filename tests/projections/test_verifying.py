"""What is not as the log says is found by `verify`, and mended by `repair`."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.read_models import ReadModels
from deployledger.service.listing import Listing, list_page
from tests.domain.given import SERVING, history
from tests.projections.examples import (
    EXAMPLES,
    assert_folded,
    by_hand,
    catch_all_up,
    label,
    opened,
    read_tables,
    tables,
)

STREAMS = [UUID(int=number << 125 | 5 << 120) for number in range(8)]
"""Ids that are spread over all that there are, as those of deployments are."""

ONE = str(STREAMS[2])


@pytest.fixture
def models(database_url: str) -> Iterator[ReadModels]:
    with opened(database_url, *EXAMPLES) as models:
        for number, stream in enumerate(STREAMS):
            models.log.append(history(*SERVING[: number % 4 + 1], stream=stream))
        catch_all_up(models)
        yield models


EDITS: list[tuple[str, str, str, Any, Any]] = [
    # projection, statement, field, expected, found
    ("deployment_list", "UPDATE {} SET c_name = 'edited' WHERE key = '{}'", "name", "iris", "edited"),
    ("deployment_list", "UPDATE {} SET c_status = 'active' WHERE key = '{}'", "status", "creating", "active"),
    ("deployment_list", "UPDATE {} SET first_position = 999 WHERE key = '{}'", "first_position", 4, 999),
    ("deployment_list", "UPDATE {} SET position = 7 WHERE key = '{}'", "position", 6, 7),
    ("deployment_list", "UPDATE {} SET parked_from = 2 WHERE key = '{}'", "parked_from", None, 2),
    (
        "deployment_status",
        "UPDATE {} SET state = replace(state, '\"iris\"', '\"rose\"') WHERE key = '{}'",
        "name",
        "iris",
        "rose",
    ),
    ("counts", "UPDATE {} SET c_count = 4 WHERE key = '{}'", "count", 3, 4),
    ("by_revision", "UPDATE {} SET c_number = 5 WHERE key != '{}'", "number", 8, 5),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda it: f"{it[0]} {it[2]}")
def test_an_edited_row_is_found_and_mended(
    edit: tuple[str, str, str, Any, Any], models: ReadModels, database_url: str
) -> None:
    name, statement, field, expected, found = edit
    by_hand(database_url, statement.format(f"@{label(models, name)}", ONE))
    for verified in models.verify(list(models.projections)):
        assert verified.position == models.log.position()
        if verified.name != name:
            assert not verified.differences
            continue
        (difference,) = verified.differences
        assert difference.key == (ONE if name != "by_revision" else "revision 1")
        assert (difference.field, difference.expected, difference.found) == (field, expected, found)
        models.repair(verified)
    assert_mended(models, database_url)


def assert_mended(models: ReadModels, database_url: str) -> None:
    assert not any(it.differences for it in models.verify(list(models.projections)))
    assert_folded(models)
    assert tables(database_url) == read_tables(models)
    page = list_page(models, Listing(), "current")
    assert (len(page), page.total) == (8, 8)


@pytest.mark.parametrize("name", ["deployment_status", "deployment_list", "counts"])
def test_a_deleted_row_is_found_and_mended(name: str, models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"DELETE FROM @{label(models, name)} WHERE key = '{ONE}'")
    (verified,) = models.verify([name])
    (difference,) = verified.differences
    assert (difference.key, difference.field, difference.found) == (ONE, "", None)
    assert difference.expected["position"] == 6
    models.repair(verified)
    assert_mended(models, database_url)


@pytest.mark.parametrize("key", ["00000000-0000-4000-8000-00000000abcd", "no stream"])
@pytest.mark.parametrize("name", ["deployment_status", "deployment_list"])
def test_an_added_row_is_found_and_mended(name: str, key: str, models: ReadModels, database_url: str) -> None:
    table = label(models, name)
    columns = [
        column
        for column in ("state", "first_position", "position", *_columns(models, name))
        if column != "key"
    ]
    by_hand(
        database_url,
        f"INSERT INTO @{table} (key, {', '.join(columns)}) "
        f"SELECT '{key}', {', '.join(columns)} FROM @{table} WHERE key = '{ONE}'",
    )
    (verified,) = models.verify([name])
    (difference,) = verified.differences
    assert (difference.key, difference.field, difference.expected) == (key, "", None)
    assert difference.found["name"] == "iris"
    models.repair(verified)
    assert_mended(models, database_url)


def _columns(models: ReadModels, name: str) -> list[str]:
    return [f"c_{it}" for it in models.projection(name).columns]


def test_a_row_made_unreadable_is_found_and_mended(models: ReadModels, database_url: str) -> None:
    table = label(models, "deployment_status")
    by_hand(database_url, f"UPDATE @{table} SET state = '{{nonsense' WHERE key = '{ONE}'")
    (verified,) = models.verify(["deployment_status"])
    assert {it.key for it in verified.differences} == {ONE}
    assert "state" in {it.field for it in verified.differences}
    models.repair(verified)
    assert_mended(models, database_url)


@pytest.mark.parametrize("change", ["total = total + 3", "counted = counted - 1", "total = 0, counted = 0"])
def test_a_changed_count_is_found_and_mended(change: str, models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"UPDATE @read_models SET {change} WHERE name = 'deployment_list'")
    if not database_url.startswith("sqlite"):  # there, a list that does not fit its count is rebuilt at once
        assert list_page(models, Listing(), "current").total != 8
    (verified,) = models.verify(["deployment_list"])
    assert {it.key for it in verified.differences} == {"#counts"}
    models.repair(verified)
    assert_mended(models, database_url)


def test_many_differences_are_all_listed(models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"UPDATE @{label(models, 'counts')} SET c_count = 77")
    (verified,) = models.verify(["counts"])
    assert {it.key for it in verified.differences} == {str(it) for it in STREAMS}
    assert verified.rows == 8
    models.repair(verified)
    assert_mended(models, database_url)


def test_a_sample_that_has_the_row_finds_it(models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"UPDATE @{label(models, 'counts')} SET c_count = 77 WHERE key = '{ONE}'")
    found = 0
    for _ in range(100):
        (verified,) = models.verify(["counts"], sample=3)
        assert verified.rows <= 8
        assert {it.key for it in verified.differences} <= {ONE}
        found += bool(verified.differences)
    assert 0 < found < 100
    (verified,) = models.verify(["counts"], sample=100)
    assert [it.key for it in verified.differences] == [ONE]
    assert verified.rows == 8


def test_what_cannot_be_sampled_is_refused(models: ReadModels) -> None:
    with pytest.raises(ConfigurationError, match="sample of 0 rows is out of range"):
        models.verify(["counts"], sample=0)
    with pytest.raises(ConfigurationError, match="has keys of its own"):
        models.verify(["by_revision"], sample=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_verify_as_one_does(workers: int, models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"UPDATE @{label(models, 'counts')} SET c_count = 77 WHERE key = '{ONE}'")
    (verified,) = models.verify(["counts"], workers=workers)
    assert [it.key for it in verified.differences] == [ONE]
    assert tables(database_url) == read_tables(models)


def test_one_row_is_made_anew(models: ReadModels, database_url: str) -> None:
    by_hand(database_url, f"UPDATE @{label(models, 'counts')} SET c_count = 77")
    models.refold("counts", [ONE])
    (verified,) = models.verify(["counts"])
    assert {it.key for it in verified.differences} == {str(it) for it in STREAMS} - {ONE}
    with pytest.raises(ConfigurationError, match="has keys of its own"):
        models.refold("by_revision", ["revision 1"])
