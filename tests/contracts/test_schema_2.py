"""What an earlier release wrote opens, verifies and replays: log, read models, checkpoints and evidence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.export import import_log
from deployledger.audit.evidence.verification import verify_evidence
from deployledger.audit.keys import Verifier

DATA = Path(__file__).parents[1] / "data" / "schema-2"
ANSWERS: dict[str, Any] = json.loads((DATA / "answers.json").read_text())
"""What that release answered: the root of all events, the digest of the replay, and two lists."""
KEY = Verifier.parse((DATA / "audit.key.pub").read_text())
CHECKPOINTS = [(path.name, path.read_text()) for path in sorted((DATA / "checkpoints").iterdir())]


@pytest.fixture(params=["opened", "imported into SQLite", "imported into PostgreSQL"])
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Yield a service on that log: the file itself, or a database that its export was imported into."""
    monkeypatch.setenv("DEPLOYLEDGER_CREATE_SCHEMA", "true")
    if request.param == "imported into PostgreSQL":
        url = request.getfixturevalue("empty_postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'deployledger.db'}"
    if request.param == "opened":
        for file in DATA.glob("deployledger.db*"):
            shutil.copy(file, tmp_path)
    service = MLModelDeploymentService(database_url=url, run_jobs=False)
    if request.param != "opened":
        import_log(service.event_log, DATA / "log.gz")
    return service


async def test_it_verifies_replays_and_answers_as_it_did(service: MLModelDeploymentService) -> None:
    async with service:
        audited = service.ledger.verify([KEY], CHECKPOINTS)
        assert audited.problems == ()
        assert audited.is_verified
        assert audited.size == ANSWERS["events"]
        replayed = await service.replay()
        assert (replayed.problems, replayed.digest) == ((), ANSWERS["digest"])
        now = await service.list_deployments(include_deleted=True)
        assert_answers([it.model_dump(mode="json") for it in now], ANSWERS["now"])
        then = await service.list_deployments(include_deleted=True, as_of="20")
        assert_answers([it.model_dump(mode="json") for it in then], ANSWERS["as_of_20"])


@pytest.mark.parametrize("name", ["iris.zip", "range.zip"])
def test_its_evidence_verifies(name: str) -> None:
    found = verify_evidence(DATA / name, KEY)
    assert found.is_verified, found.problems


def assert_answers(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that every field that the answers had is as it was; they may have more by now."""
    known = [known_fields(answer, before) for answer, before in zip(answers, expected, strict=True)]
    assert known == expected


def known_fields(answer: Any, before: Any) -> Any:
    """Return what an answer has of the fields of an earlier one, within fields as well."""
    if not isinstance(answer, dict) or not isinstance(before, dict):
        return answer
    return {field: known_fields(answer[field], before[field]) for field in before}
