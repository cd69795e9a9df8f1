"""What each role of PostgreSQL needs: the GRANTs of docs/database.md, with real roles."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.exceptions import EventLogError, MachineLearningServiceError, ReadModelError
from deployledger.service.database_checks import check_database
from tests.domain.given import request
from tests.e2e.conftest import REPOSITORY
from tests.e2e.in_process import InProcess

PAGE = (REPOSITORY / "docs" / "database.md").read_text()
ADMINISTRATOR, SERVICE, READER = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ROLES = ("owner", "service", "reader")


class Roles:
    """Three roles of a database, with names of their own; nothing is granted yet.

    Attributes:
        url: the database's URL for its administrator.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"r{uuid4().hex[:8]}_"

    def url_of(self, role: str, **options: str) -> str:
        """Return the database's URL for a role."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        query = "&".join([parts.query, *(f"{name}={value}" for name, value in options.items())])
        return urlunsplit(parts._replace(netloc=f"{self.prefix}{role}@{host}", query=query))

    def run(self, statements: str, role: str | None = None) -> None:
        """Run SQL as a role, or as the administrator."""
        statements = statements.replace("deployledger_", self.prefix)
        with psycopg.connect(self.url_of(role) if role else self.url, autocommit=True) as session:
            for statement in filter(str.strip, statements.split(";")):
                session.execute(statement.encode())

    def service(self, role: str, **options: str) -> MLModelDeploymentService:
        """Return a service whose database is used as a role."""
        return MLModelDeploymentService(database_url=self.url_of(role, **options), resume=False)

    async def init(self, role: str = "owner", **options: str) -> None:
        """Run ``db init`` as a role."""
        async with self.service(role, **options) as service:
            service.event_log.create_schema()
            service.read_models.prepare()
            service.ledger.store.size()


@pytest.fixture
def roles(empty_postgres_url: str) -> Iterator[Roles]:
    of_database = Roles(empty_postgres_url)
    of_database.run("".join(line + "\n" for line in ADMINISTRATOR.splitlines() if "ROLE" in line))
    yield of_database
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        for role in ROLES:
            name = sql.Identifier(of_database.prefix + role)
            session.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(name))


@pytest.fixture
async def ready(roles: Roles) -> Roles:
    """The roles with all the rights that the page gives them."""
    roles.run("CREATE SCHEMA deployledger AUTHORIZATION deployledger_owner")
    await roles.init()
    roles.run(SERVICE, "owner")
    roles.run(READER, "owner")
    return roles


async def deploy(service: MLModelDeploymentService, name: str) -> str:
    accepted = await service.deploy_model(request(deployment_name=name), idempotency_key=name)
    status = (await service.wait_for_deployment(accepted.deployment_id, timeout=60)).status
    assert [row.deployment_name for row in await service.list_deployments(name_contains=name)] == [name]
    return status


async def test_the_rights_of_the_page_are_enough_for_each_role(ready: Roles) -> None:
    async with ready.service("service") as service:
        assert await deploy(service, "iris") == "active"
        assert [finding for finding in check_database(service) if finding.is_problem] == []
        service.ledger.root()
    async with ready.service("owner") as owner:
        owner.read_models.rebuild(list(owner.read_models.projections))  # in new tables
    async with ready.service("service") as service:
        assert await deploy(service, "rose") == "active"
    async with ready.service("reader") as reader:
        assert len(await reader.list_deployments()) == 2
        assert any("may read the event log" in finding.message for finding in check_database(reader))


LACKING = (
    ("INSERT ON deployledger.events", "service"),
    ("INSERT ON deployledger.idempotency_keys", "service"),
    ("SELECT ON deployledger.read_models", "service"),
    ("UPDATE ON deployledger.read_models", "service"),
    ("DELETE ON deployledger.read_model_parked", "service"),
    ("SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA deployledger", "service"),
    ("UPDATE ON deployledger.ledger", "service"),
    ("USAGE ON SCHEMA deployledger", "service"),
    ("EXECUTE ON FUNCTION deployledger.events_append", "public"),
)


async def test_a_missing_right_is_named_before_anything_is_accepted(ready: Roles) -> None:
    for number, (right, holder) in enumerate(LACKING):
        grantee = "PUBLIC" if holder == "public" else "deployledger_service"
        ready.run(f"REVOKE {right} FROM {grantee}", "owner")
        ready.run(await missing_grants(ready, f"iris-{number}"), "owner")
        if "ALL TABLES" in right:  # first what reading needs, then the rest
            ready.run(await missing_grants(ready, f"iris-{number}"), "owner")
        async with ready.service("service") as service:
            assert await deploy(service, f"iris-{number}") == "active", right


async def missing_grants(ready: Roles, name: str) -> str:
    """Return the GRANTs that a refused command names, which stored nothing."""
    with psycopg.connect(ready.url) as session:
        before = session.execute("SELECT count(*) FROM deployledger.events").fetchone()
        async with ready.service("service") as service:
            with pytest.raises(EventLogError) as refusal:
                await service.deploy_model(request(deployment_name=name), idempotency_key=name)
        assert session.execute("SELECT count(*) FROM deployledger.events").fetchone() == before
    found = re.search(r"run: (GRANT .*)\. docs/database\.md", refusal.value.hint)
    assert found is not None, refusal.value
    return found[1]


async def test_a_role_that_only_reads_is_not_told_to_grant_itself_more(ready: Roles) -> None:
    async with ready.service("reader") as service:
        with pytest.raises(EventLogError) as refusal:
            await service.deploy_model(request())
    assert "This role only reads" in refusal.value.hint
    assert "GRANT" not in refusal.value.hint
    async with MLModelDeploymentService(
        database_url="sqlite://", read_models_url=ready.url_of("reader"), resume=False
    ) as service:
        with pytest.raises(ReadModelError) as refused:
            await service.deploy_model(request())
    assert "This role only reads" in refused.value.hint


async def test_before_db_init_every_other_role_is_told_to_run_it(roles: Roles) -> None:
    roles.run("CREATE SCHEMA deployledger AUTHORIZATION deployledger_owner")
    for right in ("", "GRANT USAGE ON SCHEMA deployledger TO deployledger_service"):
        roles.run(right, "owner")
        for role in ("service", "reader"):
            async with roles.service(role) as service:
                with pytest.raises(EventLogError) as refusal:
                    await service.list_deployments()
            assert "has no deployledger schema" in refusal.value.message
            assert "Run `deployledger db init` as the role that owns the schema" in refusal.value.hint
            assert "GRANT" not in refusal.value.hint
    async with roles.service("owner") as service:
        with pytest.raises(EventLogError) as refusal:
            await service.list_deployments()
    assert refusal.value.hint.startswith("Run `deployledger db init`, or")


async def test_a_check_names_the_missing_grants(ready: Roles) -> None:
    ready.run("REVOKE DELETE ON deployledger.read_model_parked FROM deployledger_service", "owner")
    async with ready.service("service") as service:
        [problem] = [finding for finding in check_database(service) if finding.check == "rights"]
    assert problem.is_problem
    assert f'GRANT DELETE ON deployledger.read_model_parked TO "{ready.prefix}service"' in problem.hint


async def test_a_schema_that_an_administrator_made_is_used(roles: Roles) -> None:
    for given in (
        "CREATE SCHEMA deployledger AUTHORIZATION deployledger_owner",
        "CREATE SCHEMA deployledger; GRANT USAGE, CREATE ON SCHEMA deployledger TO deployledger_owner",
        "CREATE SCHEMA deployledger; GRANT ALL ON SCHEMA deployledger TO PUBLIC",
        f"GRANT CREATE ON DATABASE {urlsplit(roles.url).path[1:]} TO deployledger_owner",
    ):
        roles.run(given)
        await roles.init()
        await roles.init()  # which changes nothing
        async with roles.service("owner", options="-csearch_path%3Ddeployledger") as service:
            assert await deploy(service, "iris") == "active", given
        roles.run("DROP SCHEMA deployledger CASCADE")


async def test_what_an_administrator_has_to_do_is_said(roles: Roles) -> None:
    for given, missing in (
        ("", "CREATE SCHEMA deployledger; GRANT USAGE, CREATE ON SCHEMA deployledger TO"),
        ("CREATE SCHEMA deployledger", "GRANT USAGE, CREATE ON SCHEMA deployledger TO"),
        (
            "CREATE SCHEMA deployledger; GRANT USAGE ON SCHEMA deployledger TO deployledger_owner",
            "GRANT CREATE ON SCHEMA deployledger TO",
        ),
        (
            "CREATE SCHEMA deployledger; GRANT CREATE ON SCHEMA deployledger TO deployledger_owner",
            "GRANT USAGE ON SCHEMA deployledger TO",
        ),
    ):
        roles.run(given)
        with pytest.raises(MachineLearningServiceError) as refusal:
            await roles.init()
        statements = re.search(r"run: (.*)\. docs/database\.md", refusal.value.hint)
        assert statements is not None
        assert statements[1].startswith(missing)
        roles.run(statements[1])
        await roles.init()
        roles.run("DROP SCHEMA deployledger CASCADE")


def test_db_init_creates_every_table(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    roles.run("CREATE SCHEMA deployledger AUTHORIZATION deployledger_owner")
    assert InProcess(roles.url_of("owner"), monkeypatch).run("db", "init").exit_code == 0
    with psycopg.connect(roles.url) as session:
        rows = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'deployledger'").fetchall()
    assert {"events", "read_models", "ledger", "deployment_list_v1_2"} <= {name for (name,) in rows}


async def test_rights_on_read_models_elsewhere_are_checked_too(ready: Roles, tmp_path: Path) -> None:
    ready.run("REVOKE INSERT ON deployledger.read_model_tables FROM deployledger_service", "owner")
    file, elsewhere = f"sqlite:///{tmp_path / 'log.db'}", ready.url_of("service")
    async with MLModelDeploymentService(
        database_url=file, read_models_url=elsewhere, resume=False
    ) as service:
        with pytest.raises(ReadModelError) as refusal:
            await service.deploy_model(request())
        assert service.event_log.position() == 0
        assert "GRANT INSERT ON deployledger.read_model_tables TO" in refusal.value.hint
        ready.run("GRANT INSERT ON deployledger.read_model_tables TO deployledger_service", "owner")
        assert await deploy(service, "iris") == "active"
