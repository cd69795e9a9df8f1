"""No credential is in any row of the database, on either kind, nor in what is logged or answered."""

import logging
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.ports import Observation
from tests.domain.given import request
from tests.outside_texts import SHAPES
from tests.service.outside import HeldOrchestrator

SECRET = "s3cr3tValue7"
WAIT = 60


class Talkative(HeldOrchestrator):
    """Reports credentials in whatever it says."""

    async def observe(self, deployment_id: object) -> Observation:
        return Observation(running=False, revision=None, detail=f"Authorization: Bearer {SECRET}")


def rows(database_url: str) -> bytes:
    """Return everything that is stored: the files of SQLite, or the rows of every table of PostgreSQL."""
    if database_url.startswith("sqlite"):
        folder = Path(database_url.removeprefix("sqlite:///")).parent
        return b"".join(path.read_bytes() for path in folder.glob("events.db*") if path.is_file())
    with psycopg.connect(database_url) as session:
        tables = session.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"
        ).fetchall()
        stored = b""
        for schema, table in tables:
            found = session.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table)))
            for row in found:
                for value in row:
                    stored += value if isinstance(value, bytes) else str(value).encode()
    return stored


async def test_no_credential_is_in_any_row_or_log(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    orchestrator = Talkative()
    texts = [shape.replace("SECRET", SECRET) for shape in SHAPES]
    said: list[str] = []
    async with MLModelDeploymentService(None, None, orchestrator, database_url=database_url) as service:
        orchestrator.failure = RuntimeError("\n\n".join(texts))
        failing = await service.deploy_model(request(deployment_name="failing"), idempotency_key="one")
        ended = await service.wait_for_deployment(failing.deployment_id, timeout=WAIT)
        assert ended.status == "failed"
        said += [it.model_dump_json() for it in await service.get_deployment_history(failing.deployment_id)]
        said.append(repr(await service.observe_deployment(failing.deployment_id)))
        for number, text in enumerate(texts):
            try:
                answer = await service.deploy_model(
                    request(deployment_name=f"n{number}", tags={"note": text}), idempotency_key=f"k{number}"
                )
                said.append(answer.model_dump_json())
            except ConfigurationError as refused:
                said.append(str(refused))
        with pytest.raises(ConfigurationError, match="idempotency_key") as refused_key:
            await service.deploy_model(request(deployment_name="k"), idempotency_key=f"token={SECRET}")
        with pytest.raises(ConfigurationError, match="actor") as refused_actor:
            await service.deploy_model(request(deployment_name="a"), actor=f"https://u:{SECRET}@x")
        said += [str(refused_key.value), str(refused_actor.value)]
        said += [it.model_dump_json() for it in await service.list_deployments()]
        stored = rows(database_url)
    assert b"failing" in stored
    assert SECRET.encode() not in stored
    assert SECRET.encode() not in rows(database_url)
    assert SECRET not in "".join(said)
    assert SECRET not in caplog.text
    assert "Where it came from" in caplog.text


def test_an_actor_or_orchestrator_with_a_credential_is_refused_at_once(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'events.db'}"
    with pytest.raises(ConfigurationError, match=r"actor\."):
        MLModelDeploymentService(database_url=database, actor=f"password={SECRET}")
    with pytest.raises(ConfigurationError, match=r"name\."):
        MLModelDeploymentService(
            None, None, HeldOrchestrator(f"https://u:{SECRET}@cluster"), database_url=database
        )
