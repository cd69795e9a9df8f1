"""What a projection may not be, and what cannot be asked of read models: each its own clear error."""

import threading
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, ConfigDict

from deployledger.adapters.read_models import load_projections, open_read_models
from deployledger.domain.exceptions import ConfigurationError, ConflictError
from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.projection import Projection
from tests.domain.given import SERVING, history
from tests.projections.examples import COUNTS, Count, by_hand, label, opened, read_tables, tables


def projection(**changes: Any) -> Projection[Any]:
    fields: dict[str, Any] = {"name": "odd", "version": 1, "row_type": Count, "apply": COUNTS.apply}
    return Projection(**{**fields, **changes})


class NotJson(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    lock: threading.Event


class Awkward(BaseModel):
    tags: dict[str, str]
    either: int | str
    when: datetime | None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "not a valid projection name"),
        ({"name": "Odd"}, "not a valid projection name"),
        ({"name": "1odd"}, "not a valid projection name"),
        ({"name": "a" * 41}, "not a valid projection name"),
        ({"name": 'a"; --'}, "not a valid projection name"),
        ({"name": 5}, "not a valid projection name"),
        ({"version": 0}, "version 0"),
        ({"version": "1"}, "version '1'"),
        ({"row_type": dict}, "not a pydantic model"),
        ({"columns": ("missing",)}, "no field 'missing'"),
        ({"row_type": Awkward, "columns": ("tags",)}, "'tags' of projection odd cannot be a column"),
        ({"row_type": Awkward, "columns": ("either",)}, "'either' of projection odd cannot be a column"),
        ({"indexes": (("count",),)}, "no column 'count'"),
        ({"counted": "count"}, "no column 'count'"),
        ({"columns": ("count",), "counted": "count"}, "is not a bool"),
    ],
)
def test_what_is_no_projection_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        projection(**changes)


def test_a_column_may_be_empty() -> None:
    assert projection(row_type=Awkward, columns=("when",)).column_types == {"when": datetime}


def test_what_cannot_be_opened_is_refused(database_url: str) -> None:
    with opened(database_url) as models:
        log: Any = models.log
        with pytest.raises(ConfigurationError, match="Two different projections are called 'counts'"):
            open_read_models(log, projections=[COUNTS, replace(COUNTS, version=COUNTS.version + 1)])
        with pytest.raises(
            ConfigurationError, match="Two different projections are called 'deployment_list'"
        ):
            open_read_models(log, projections=[replace(DEPLOYMENT_LIST, version=99)])
        with pytest.raises(ConfigurationError, match="odd cannot be stored"):
            open_read_models(log, projections=[projection(row_type=NotJson)])
        with pytest.raises(ConfigurationError, match="is not a Projection"):
            open_read_models(log, projections=["counts"])  # type: ignore[list-item]
        with pytest.raises(ConfigurationError, match="Unsupported database URL"):
            open_read_models(log, url="mysql://me:secret@host/db")


@pytest.mark.parametrize(
    "reference", ["counts", "nowhere.at.all:COUNTS", "tests.projections.examples:NONE", ":"]
)
def test_what_cannot_be_imported_is_refused(reference: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be imported|is not a projection"):
        load_projections(f"tests.projections.examples:COUNTS, {reference}")


def test_projections_are_imported_by_name() -> None:
    assert load_projections("tests.projections.examples:COUNTS,") == [COUNTS]


def test_what_cannot_be_asked_is_refused(database_url: str) -> None:
    with opened(database_url, COUNTS) as models:
        models.log.append(history(*SERVING))
        calls = [
            lambda: models.get("cuonts", "x"),
            lambda: models.rebuild(["cuonts"]),
            lambda: models.verify(["counts", "cuonts"]),
            lambda: models.retry("cuonts"),
            lambda: models.parked("cuonts"),
            lambda: models.refold("cuonts", ["x"]),
            lambda: models.follow(threading.Event(), names=["cuonts"]),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match="Unknown projection 'cuonts'"):
                call()
        with pytest.raises(ConfigurationError, match="Unknown consistency 'later'"):
            models.get("counts", "x", "later")
        for workers in (0, -1, 65):
            with pytest.raises(ConfigurationError, match=f"{workers} workers are out of range"):
                models.rebuild(["counts"], workers=workers)
            with pytest.raises(ConfigurationError, match=f"{workers} workers are out of range"):
                models.verify(["counts"], workers=workers)
        assert models.get("counts", str(uuid4())) is None
        assert models.rebuild([]) == []
        assert models.verify([]) == []


def test_a_projection_that_no_other_process_finds_has_one_worker(database_url: str) -> None:
    hidden = projection(apply=lambda row, event: Count(count=1))
    with opened(database_url, hidden) as models:
        models.log.append(history(*SERVING))
        with pytest.raises(ConfigurationError, match="cannot be passed to worker processes"):
            models.rebuild(["odd"], workers=2)
        assert models.rebuild(["odd"])[0].events == 4
        assert tables(database_url) == read_tables(models)


def test_a_rebuild_while_one_runs_is_refused(database_url: str) -> None:
    with opened(database_url, COUNTS) as models, opened(database_url, COUNTS) as other:
        models.log.append(history(*SERVING))
        refused: list[str] = []

        def meanwhile(done: int, total: int) -> None:
            assert [it.is_being_rebuilt for it in other.status() if it.name == "counts"] == [True]
            assert [it.is_being_rebuilt for it in other.status() if it.name != "counts"] == [False] * 3
            for second in (models, other):
                for call in (second.rebuild, second.verify):
                    with pytest.raises(ConflictError, match="counts is being rebuilt or verified"):
                        call(["deployment_list", "counts"])
                    refused.append(call.__name__)

        models.rebuild(["counts"], progress=meanwhile)
        assert len(refused) >= 4
        assert not any(it.is_being_rebuilt for it in other.status())
        other.rebuild(["counts"])
        assert tables(database_url) == read_tables(models)


# Versions -------------------------------------------------------------------------------------------


class Wider(BaseModel):
    model_config = ConfigDict(frozen=True)

    count: int
    doubled: int = 0


def _wider(row: Wider | None, event: Any) -> Wider:
    count = (row.count if row else 0) + 1
    return Wider(count=count, doubled=2 * count)


def test_a_row_type_that_changed_needs_a_new_version(database_url: str) -> None:
    stream = uuid4()
    with opened(database_url, COUNTS) as models:
        models.log.append(history(*SERVING, stream=stream))
        assert models.get("counts", str(stream)).count == 4
    for changes in ({}, {"columns": ("count",)}):
        changed = Projection(name="counts", version=1, row_type=Wider, apply=_wider, **changes)  # type: ignore[arg-type]
        with (
            opened(database_url, changed) as models,
            pytest.raises(ConfigurationError, match="do not match its row type"),
        ):
            models.get("counts", str(stream))
    with opened(database_url, COUNTS) as models:
        assert models.get("counts", str(stream)).count == 4


@pytest.mark.parametrize("built_from", [0, 20_000])
def test_an_old_and_a_new_version_are_read_beside_each_other(
    built_from: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployledger.projections.read_models._BUILT_FROM", built_from)
    stream, later = uuid4(), uuid4()
    newer = Projection(name="counts", version=2, row_type=Wider, apply=_wider, columns=("doubled",))
    with opened(database_url, COUNTS) as old, opened(database_url, newer) as new:
        old.log.append(history(*SERVING, stream=stream))
        assert old.get("counts", str(stream)) == Count(count=4)
        before = label(old, "counts")
        assert new.get("counts", str(stream)) == Wider(count=4, doubled=8)
        new.log.append(history(*SERVING[:2], stream=later))
        assert old.get("counts", str(later)) == Count(count=2)
        assert new.get("counts", str(later)) == Wider(count=2, doubled=4)
        assert label(old, "counts") == before
        new.rebuild(["counts"])
        assert label(old, "counts") == before
        for models in (old, new):
            assert not any(it.differences for it in models.verify(list(models.projections)))
            by_version = {it.version: it for it in models.status() if it.name == "counts"}
            assert {version: it.rows for version, it in by_version.items()} == {1: 2, 2: 2}
            assert by_version[models.projection("counts").version].is_current
        assert not {it.version: it.is_current for it in new.status() if it.name == "counts"}[1]
        old.store.remove("counts", 1)
        assert new.get("counts", str(stream)) == Wider(count=4, doubled=8)
        assert tables(database_url) == read_tables(new)
        assert before not in tables(database_url)


def test_two_projections_never_share_a_table(database_url: str) -> None:
    one, other = projection(name="odd"), projection(name="odd_v1")
    with opened(database_url, one, other, COUNTS) as models:
        models.log.append(history(*SERVING))
        for name in ("odd", "odd_v1", "counts"):
            models.rebuild([name])
        assert len(read_tables(models)) == 3
        assert tables(database_url) == read_tables(models)
        by_hand(database_url, f"DELETE FROM @{label(models, 'odd')}")
        (verified,) = models.verify(["odd_v1"])
        assert not verified.differences
