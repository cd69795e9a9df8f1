"""What an event log says when its database cannot be used: clearly, soon, and without the password."""

import os
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog, events_of, version_of
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from tests.contracts.reading import page
from tests.domain.given import history, requested

PASSWORD = "hunter2-Secret"


def use(log: EventLog) -> None:
    log.append(history(requested(), stream=uuid4()))


USES: dict[str, Callable[[EventLog], object]] = {
    "append": use,
    "stream": lambda log: events_of(log, uuid4()),
    "version": lambda log: version_of(log, uuid4()),
    "read": lambda log: page(log, after=0, limit=1),
    "create_schema": lambda log: log.create_schema(),
}


def refused(url: str, *, create: bool = False) -> Iterator[EventLogError]:
    """Yield the error of every use of a log, after checking that it is soon and has no password."""
    for name, call in USES.items():
        log = open_event_log(url, create=create, patience=0.2)
        begun = time.monotonic()
        with pytest.raises(EventLogError) as refusal:
            call(log)
        assert time.monotonic() - begun < 20, name  # the default patience is 30
        log.close()
        error = refusal.value
        assert error.hint, name
        assert error.status_code == 503
        assert PASSWORD not in str(error)
        assert PASSWORD not in "".join(traceback.format_exception(error))
        yield error


# URLs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://ann:{PASSWORD}@localhost/ledger",
        f"postgresql+psycopg://ann:{PASSWORD}@localhost/ledger",
        "sqlite:",
        "sqlite:/one/slash.db",
        "sqlite:///",
        "sqlite://host/path.db",
        "ledger.db",
        "",
        f"postgresql:ann:{PASSWORD}@localhost",
        PASSWORD,
    ],
)
def test_a_url_of_no_known_kind_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Unsupported database URL") as refusal:
        open_event_log(url)
    assert PASSWORD not in str(refusal.value)
    assert "sqlite:///path" in refusal.value.hint


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{PASSWORD}%ZZ@localhost/ledger",
        f"postgresql://localhost/ledger?password={PASSWORD}&colour=red",
        f"postgresql://ann:p@{PASSWORD}/x@localhost/ledger",
        f"postgresql://ann:p/{PASSWORD}@localhost/ledger",
        f"postgresql://ann:{PASSWORD}",
        f"postgresql://ann:1/{PASSWORD}?x@localhost/ledger",
        f"postgresql://ann:{PASSWORD}\udcff@localhost/ledger",
    ],
)
def test_a_malformed_postgresql_url_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        version_of(open_event_log(url), uuid4())
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


# SQLite ---------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for error in refused(f"sqlite:///{tmp_path / 'file' / 'events.db'}"):
        assert str(tmp_path / "file") in error.message


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    for error in refused(f"sqlite:///{tmp_path}"):
        assert str(tmp_path) in error.message


def test_a_folder_that_cannot_be_written() -> None:
    # Not even root writes there.
    for error in refused("sqlite:////proc/events.db"):
        assert "/proc/events.db" in error.message


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as an ordinary user for a while: root writes whatever the mode of a file is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_cannot_be_written() -> None:
    # Not below tmp_path, which nobody but its owner may enter.
    with TemporaryDirectory(prefix="deployledger-") as folder:
        path = Path(folder) / "events.db"
        log = open_event_log(f"sqlite:///{path}")
        use(log)
        log.close()
        path.chmod(0o444)
        path.parent.chmod(0o555)
        with without_privileges():
            log = open_event_log(f"sqlite:///{path}")
            with pytest.raises(EventLogError) as refusal:
                use(log)
            log.close()
        path.parent.chmod(0o755)
        assert str(path) in refusal.value.message
        assert refusal.value.hint


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = open_event_log(f"sqlite:///{path}")
    use(log)
    log.close()
    path.write_bytes(path.read_bytes()[:100])
    for error in refused(f"sqlite:///{path}"):
        assert str(path) in error.message


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"\x00" * 4096])
def test_a_file_that_is_no_database_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for error in refused(f"sqlite:///{path}"):
        assert str(path) in error.message
        assert "not a database" in error.message
    assert path.read_bytes() == content


def test_a_newer_schema_in_sqlite_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for error in refused(f"sqlite:///{path}"):
        assert "has schema version 99" in error.message
        assert error.hint == "Upgrade deployledger."
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


# PostgreSQL -----------------------------------------------------------------------------------------


def test_no_server() -> None:
    for error in refused(f"postgresql://ann:{PASSWORD}@127.0.0.1:1/ledger"):
        assert "postgresql://127.0.0.1:1/ledger cannot be reached" in error.message
        assert "DEPLOYLEDGER_DATABASE_URL" in error.hint


def test_a_host_that_is_not_there() -> None:
    for error in refused(f"postgresql://ann:{PASSWORD}@no-such-host.invalid/ledger"):
        assert "no-such-host.invalid" in error.message


def test_no_database(postgres_url: str) -> None:
    for error in refused(urlunsplit(urlsplit(postgres_url)._replace(path="/no_such_database"))):
        assert "no_such_database" in error.message


def test_no_schema_says_how_to_make_it(empty_postgres_url: str) -> None:
    for name in ("append", "stream", "version", "read"):
        log = open_event_log(empty_postgres_url)
        with pytest.raises(EventLogError, match="has no deployledger schema") as refusal:
            USES[name](log)
        log.close()
        assert "deployledger db init" in refusal.value.hint
        assert "DEPLOYLEDGER_CREATE_SCHEMA" in refusal.value.hint


def test_a_log_without_schema_works_once_it_is_made(empty_postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url)
    with pytest.raises(EventLogError):
        use(log)
    other = open_event_log(empty_postgres_url)
    other.create_schema()
    other.close()
    use(log)
    log.close()


def test_a_newer_schema_in_postgresql_is_refused(empty_postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url)
    log.create_schema()
    log.close()
    with psycopg.connect(empty_postgres_url) as session:
        session.execute("UPDATE deployledger.schema_version SET version = 99")
    for error in refused(empty_postgres_url):
        assert "has schema version 99" in error.message
        assert error.hint == "Upgrade deployledger."


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """Create a role that may log in, and nothing else."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
        )
    yield name
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def as_role(url: str, role: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))


def until_refused(url: str) -> None:
    """Wait for the server, which reads its rules in its own time."""
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.02)


@pytest.fixture
def password_is_asked_for(postgres_url: str, role: str) -> Iterator[None]:
    """Make the server ask this role for its password; the server that tests start trusts everybody."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        row = server.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        try:
            before = rules.read_text()
        except OSError:  # a server of the user's own, which then has rules of its own
            yield
            return
        rules.write_text(f"local all {role} scram-sha-256\nhost all {role} all scram-sha-256\n{before}")
        server.execute("SELECT pg_reload_conf()")
        until_refused(as_role(postgres_url, role, PASSWORD + "x"))
        try:
            yield
        finally:
            rules.write_text(before)
            server.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("password_is_asked_for")
def test_a_wrong_password(empty_postgres_url: str, role: str) -> None:
    open_event_log(as_role(empty_postgres_url, role, PASSWORD)).close()
    for error in refused(as_role(empty_postgres_url, role, PASSWORD + "x")):
        assert "password authentication failed" in error.message
        assert role in error.message


def test_a_role_that_may_not_create_the_schema(empty_postgres_url: str, role: str) -> None:
    for error in refused(as_role(empty_postgres_url, role, PASSWORD), create=True):
        assert "may not create the tables" in error.message


def test_a_role_that_may_not_use_the_schema(empty_postgres_url: str, role: str) -> None:
    log = open_event_log(empty_postgres_url)
    log.create_schema()
    log.close()
    for error in refused(as_role(empty_postgres_url, role, PASSWORD)):
        assert "permission denied" in error.message


def terminate(empty_postgres_url: str, postgres_url: str) -> None:
    """End every session on the database, as a restart of the server does."""
    database = urlsplit(empty_postgres_url).path.removeprefix("/")
    with psycopg.connect(postgres_url) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = %s", (database,)
        )


def test_a_log_goes_on_after_the_server_was_restarted(empty_postgres_url: str, postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url, create=True)
    use(log)
    terminate(empty_postgres_url, postgres_url)
    use(log)
    assert len(page(log, after=0, limit=10)) == 2
    log.close()


def test_ownership_goes_on_after_the_server_was_restarted(empty_postgres_url: str, postgres_url: str) -> None:
    log, stream = open_event_log(empty_postgres_url, create=True), uuid4()
    with log.ownership(stream) as first:
        terminate(empty_postgres_url, postgres_url)
    assert first is True
    try:
        with log.ownership(stream) as again:
            assert again is True
    except EventLogError:  # told once; the next one has a new session
        with log.ownership(stream) as again:
            assert again is True
    log.close()


def test_an_event_that_does_not_decode_is_named(empty_postgres_url: str) -> None:
    log, stream = open_event_log(empty_postgres_url, create=True), uuid4()
    log.append(history(requested(), stream=stream))
    with psycopg.connect(empty_postgres_url) as session:
        session.execute("ALTER TABLE deployledger.events DISABLE TRIGGER refuse_change")
        session.execute("UPDATE deployledger.events SET topic = 'deployment.of_the_future'")
    for call in (lambda: events_of(log, stream), lambda: page(log, after=0, limit=1)):
        with pytest.raises(EventLogError, match="of_the_future") as refusal:
            call()
        assert str(stream) in refusal.value.message
        assert "Upgrade deployledger" in refusal.value.hint
    log.close()


def test_defaults_of_the_database_do_not_weaken_the_log(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        for setting in ("default_transaction_isolation = 'serializable'", "synchronous_commit = off"):
            name = session.info.dbname
            session.execute(sql.SQL("ALTER DATABASE {} SET " + setting).format(sql.Identifier(name)))
    logs = [open_event_log(empty_postgres_url, create=True, patience=patience) for patience in (20, 21)]
    with ThreadPoolExecutor(8) as pool:
        appends = [
            pool.submit(logs[number % 2].append, history(requested(), stream=uuid4()))
            for number in range(200)
        ]
        for append in appends:
            append.result()
    assert [it.position for it in page(logs[0], after=0, limit=1000)] == list(range(1, 201))
    for log in logs:
        log.close()
