"""A projection that is given twice is one; two that differ under one name are refused."""

import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.projection import Projection

RULES = """
from pydantic import BaseModel
from deployledger.projections.projection import Projection

class Row(BaseModel):
    events: int

def count(row, event):
    return Row(events=(row.events if row else 0) + 1)

def counting(by):
    return lambda row, event: Row(events=(row.events if row else 0) + by)

COUNTED = Projection(name="counted", version=1, row_type=Row, apply=count)
SAME = COUNTED
NEXT = Projection(name="counted", version=2, row_type=Row, apply=count)
BY_TWO = Projection(name="by", version=1, row_type=Row, apply=counting(2))
BY_THREE = Projection(name="by", version=1, row_type=Row, apply=counting(3))
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of a module as a program of it has them, which the setting names as a module."""
    (tmp_path / "application_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    yield runpy.run_path(str(tmp_path / "application_rules.py"))
    sys.modules.pop("application_rules", None)


def names(*given: Projection[Any]) -> list[str]:
    return list(MLModelDeploymentService(database_url="sqlite://", projections=given).read_models.projections)


def test_a_projection_as_argument_and_as_setting_is_one(
    application: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_PROJECTIONS", "application_rules:COUNTED,application_rules:SAME")
    from application_rules import COUNTED  # type: ignore[import-not-found]

    assert application["COUNTED"] is not COUNTED
    for given in ([], [COUNTED], [COUNTED, COUNTED], [application["COUNTED"]], [DEPLOYMENT_LIST]):
        assert names(*given).count("counted") == 1


def test_two_projections_of_one_name_are_both_named(
    application: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_PROJECTIONS", "application_rules:NEXT")
    with pytest.raises(ConfigurationError) as refusal:
        names(application["COUNTED"])
    assert "'counted': version 1, applied by " in refusal.value.message
    assert "and version 2, applied by application_rules:count" in refusal.value.message
    assert "DEPLOYLEDGER_PROJECTIONS" in refusal.value.hint


def test_folds_of_one_code_with_other_values_are_two(application: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Two different projections are called 'by'"):
        names(application["BY_TWO"], application["BY_THREE"])
    assert names(application["BY_TWO"], application["BY_TWO"]).count("by") == 1


def test_a_change_of_the_columns_makes_another_one(application: dict[str, Any]) -> None:
    counted = application["COUNTED"]
    with pytest.raises(ConfigurationError, match="Two different projections are called 'counted'"):
        names(counted, replace(counted, columns=("events",)))
