"""Read models on PostgreSQL of which somebody put something else in the place of a table."""

import asyncio

import psycopg
import pytest

from deployledger.service.database_checks import check_database
from tests.domain.given import request
from tests.service.conftest import OpenService

HIDING = """
    DO $$ DECLARE name text; BEGIN
        SELECT relname INTO STRICT name FROM pg_class WHERE relname ~ '^deployment_list_v[0-9]+_[0-9]+$';
        EXECUTE format('ALTER TABLE %I RENAME TO hidden', name);
        EXECUTE format('CREATE VIEW %I AS SELECT * FROM hidden WHERE false', name);
    END $$
"""
REMOVING = """
    DO $$ DECLARE name text; BEGIN
        SELECT relname INTO STRICT name FROM pg_class WHERE relname ~ '^deployment_list_v[0-9]+_[0-9]+$';
        EXECUTE format('DROP VIEW %I', name);
    END $$
"""


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_view_in_the_place_of_a_read_model_is_found_and_made_again(
    database_url: str, open_service: OpenService
) -> None:
    service = open_service(actor="ann", run_jobs=False)
    await service.deploy_model(request(deployment_name="iris"))
    assert [it.deployment_name for it in await service.list_deployments()] == ["iris"]

    async def problems() -> list[str]:
        found = await asyncio.to_thread(check_database, service)
        return [it.message for it in found if it.is_problem]

    def execute(statement: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as session:
            session.execute("SET search_path TO deployledger")
            session.execute(statement.encode())

    assert await problems() == []
    execute(HIDING)
    (problem,) = await problems()
    assert "deployment_list_v" in problem
    assert "is a view, not the table that was created" in problem
    execute(REMOVING)
    await asyncio.to_thread(service.read_models.rebuild, "deployment_list")
    assert await problems() == []
    assert [it.deployment_name for it in await service.list_deployments()] == ["iris"]
