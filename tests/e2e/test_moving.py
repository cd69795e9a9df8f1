"""Moving a log from the command line."""

import base64
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import exporting
from tests.domain.given import fetched, history, requested
from tests.domain.given import request as wanted
from tests.e2e.conftest import CommandLine
from tests.e2e.in_process import InProcess


@pytest.fixture
async def old(tmp_path: Path) -> CommandLine:
    """A command line whose log has five events, and an idempotency key."""
    cli = CommandLine(tmp_path / "old")
    async with MLModelDeploymentService(home=cli.home, actor="ann", run_jobs=False) as service:
        iris = await service.deploy_model(wanted(), idempotency_key="once")
        await service.cancel_deployment(iris.deployment_id)
        await service.deploy_model(wanted(deployment_name="rose"))
    return cli


def test_from_sqlite_to_postgresql(old: CommandLine, empty_postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    parts = urlsplit(empty_postgres_url)
    with psycopg.connect(empty_postgres_url, autocommit=True) as server:
        server.execute("CREATE ROLE mover LOGIN SUPERUSER PASSWORD 'hush-hush'")
    try:
        url = urlunsplit(parts._replace(netloc=f"mover:hush-hush@{parts.netloc.rpartition('@')[2]}"))
        new = CommandLine(tmp_path / "new", {"DEPLOYLEDGER_DATABASE_URL": url})
        exported = old.json("log", "export", file)
        assert new.run("log", "import", file).returncode == 1  # there is no schema yet
        new.json("db", "init")
        done = new.run("log", "import", file)
        assert done.returncode == 0, done.stderr
        assert "Imported 5 events and 1 idempotency key into postgresql://" in done.stdout
        assert exported["root"] in done.stdout
        assert "Set DEPLOYLEDGER_DATABASE_URL to this database" in done.stderr
        for reference in ("iris", "rose"):
            assert new.json("status", reference) == old.json("status", reference)
        assert len(new.json("list")) == len(old.json("list")) == 2
        again = new.run("log", "import", file, "--output", "json")
        assert again.returncode == 4
        error = json.loads(again.stderr)["error"]
        assert "has 5 events" in error["message"]
        assert new.json("db", "check")["ready"]
        back = new.json("log", "export", tmp_path / "back.gz")
        assert back["root"] == exported["root"]
        assert "hush-hush" not in done.stdout + done.stderr + again.stderr + json.dumps(back)
        assert b"hush-hush" not in subprocess.run(["zcat", file], capture_output=True, check=True).stdout
    finally:
        with psycopg.connect(empty_postgres_url, autocommit=True) as server:
            server.execute("REASSIGN OWNED BY mover TO CURRENT_USER")
            server.execute("DROP ROLE mover")


def test_an_export_says_what_it_wrote(old: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    done = old.run("log", "export", file)
    assert done.returncode == 0
    assert re.match(
        r"Exported 5 events and 1 idempotency key from .*deployledger\.db \([\d.]+ s\)\.\n", done.stdout
    )
    root = re.search(r"^Root  (\S+)$", done.stdout, re.MULTILINE)
    assert root is not None
    assert len(base64.b64decode(root[1])) == 32
    assert f"File  {file} ({file.stat().st_size:,} bytes)" in done.stdout
    refused = old.run("log", "export", file)
    assert refused.returncode == 4
    assert "--force" in refused.stderr
    assert old.json("log", "export", file, "--force")["events"] == 5


def test_an_export_says_what_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, url = tmp_path / "log.gz", f"sqlite:///{tmp_path / 'log.db'}"
    cli = InProcess(url, monkeypatch)
    log = open_event_log(url)
    log.append(history(requested(), stream=uuid4()))
    sync_folder = exporting._sync

    def add(folder: Path) -> None:
        log.append(history(requested(), fetched(), stream=uuid4()))
        sync_folder(folder)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_sync", add)
        done = cli.run("log", "export", file)
    assert "Exported 1 event" in done.stdout
    assert "The log now has 2 more events than this file." in " ".join(done.stderr.split())
    done = cli.run("log", "export", file, "--force")
    log.close()
    assert "Exported 3 events" in done.stdout
    assert "The log now has" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"no export", b"\x1f\x8b\x08\x00 damaged"])
def test_a_bad_file_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    file.write_bytes(content)
    cli = CommandLine(tmp_path / "home")
    done = cli.run("log", "import", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file} cannot be imported" in " ".join(done.stderr.split())
    assert cli.run("log", "import", tmp_path / "none").returncode == 2
    assert cli.json("log", "stats")["events"] == 0


def test_a_terminal_shows_a_bar(old: CommandLine, tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("deployledger"), "log", "export", tmp_path / "log.gz"],
        env={**os.environ, "DEPLOYLEDGER_HOME": str(old.home), "COLUMNS": "100", "TERM": "xterm"},
        stdout=end,
        stderr=end,
    )
    os.close(end)
    shown = b""
    while True:
        try:
            some = os.read(terminal, 4096)
        except OSError:  # everybody else has closed it
            break
        if not some:
            break
        shown += some
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"Exporting" in shown
    assert b"Exported 5 events" in shown
