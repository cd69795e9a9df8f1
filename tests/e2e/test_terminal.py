"""What is printed cannot lie, and a failing output costs no deployment."""

import ast
import errno
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployledger.adapters.cli.terminal import Terminal
from deployledger.adapters.event_log import open_event_log
from deployledger.audit.evidence.__main__ import main as verify_alone
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.names import NameReservation
from tests.domain.given import (
    ARTIFACT,
    FAILURE,
    IMAGE,
    context,
    failed,
    fetched,
    history,
    packaged,
    provisioned,
    requested,
    update_requested,
)
from tests.e2e.in_process import Done, Failing, InProcess, Output

ACTS = "\x1b[7A\x1b[2K\x9b1G\u202e\u2066\u200b\ufeff\u2028\x85\r\x07\x7f\U000e0041"
FORGED = f"x{ACTS}\nRequested by    os:alice (approved)[red]r[/red][link=http://evil]l[/link]:smile:\\"
CONTROLS = "x\x9b1G\u202e\u2066\u200b\ufeff\u2028[red]r[/red]"
"""What a nested field of a stored event may have: there are no C0 controls in it."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return InProcess(f"sqlite:///{tmp_path}/log.db", monkeypatch)


@pytest.fixture
def forged(cli: InProcess) -> Iterator[InProcess]:
    """A database of an earlier release, which took more, with a forged text in every field."""
    target = {"type": "batch_inference_job", "serving_image": CONTROLS, "instance_type": CONTROLS}
    asked = {"name": "iris", "model_uri": FORGED, "target": target | {"input_uri": CONTROLS}}
    asked["tags"] = {FORGED: FORGED, "nested": {"a": [FORGED]}}
    artifact = ARTIFACT.model_copy(update={"resolved_uri": FORGED, "model_version": FORGED})
    failure = FAILURE.model_copy(update={"message": FORGED, "hint": FORGED})
    events = history(
        requested(**asked),
        fetched(1, artifact),
        packaged(1, IMAGE.model_copy(update={"reference": FORGED})),
        provisioned(),
        update_requested(**asked),
        failed(2, failure),
    )
    reservation = NameReservation("iris")
    reservation.reserve(events[0].originator_id, by=context(FORGED))
    with_actor: list[DeploymentEvent] = [it.model_copy(update={"actor": FORGED}) for it in events]
    log = open_event_log(cli.database_url, create=True)
    log.append([*with_actor, *reservation.collect_events()])
    yield cli
    log.close()


NO_JSON = [["projections", "verify"], ["audit", "verify"], ["db", "check"], ["log", "stats"]]
"""Which take longer, and print no foreign text."""
READING = [
    ["status", "iris"],
    ["status", "iris", "-o", "wide"],
    ["status", "iris", "--as-of", "2"],
    ["list", "--all"],
    ["list", "--as-of", "5"],
    ["list", "--as-of", "5", "-o", "wide"],
    ["history", "iris"],
    ["diff", "iris", "--from", "1"],
    ["replay"],
    ["log", "tail"],
    ["log", "stats"],
    ["db", "check"],
    ["projections", "status"],
    ["projections", "verify"],
    ["projections", "parked", "list"],
    ["audit", "verify"],
    ["status", FORGED],
    ["status", "iris", f"--{FORGED}"],
    ["status", "iris", "--as-of", FORGED],
    ["list", "--status", FORGED],
    ["list", "--cursor", FORGED],
    ["list", "--tag", f"={FORGED}"],
    ["log", "import", FORGED],
    ["audit", "verify", "--checkpoint", FORGED],
    ["audit", "verify-evidence", FORGED, "--key", FORGED],
    ["rollback", "iris", "--to-revision", FORGED],
    ["deploy", f"file://{FORGED}", "--name", FORGED],
    [FORGED],
]


def test_foreign_text_does_not_act_on_a_terminal(forged: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    for command in READING:
        done = forged.run(*command, stdout=Output(is_terminal=True), stderr=Output(is_terminal=True))
        for text in (done.stdout, done.stderr):
            assert "\x1b[7A" not in text, command
            check(command, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text))  # colours, and progress bars
        check_lines(command, done)


def test_foreign_text_is_spelled_out_where_it_is_piped_and_in_json(forged: InProcess) -> None:
    for command in READING:
        done = forged.run(*command)
        check(command, done.stdout + done.stderr)
        check_lines(command, done)
        if done.exit_code < 2 and command not in NO_JSON and "wide" not in command:
            as_json = forged.run(*command, "--output", "json")
            assert (as_json.stdout + as_json.stderr).isascii(), command
            check(command, as_json.stdout + as_json.stderr)


def check(command: list[str], text: str) -> None:
    acting = {it for it in text if not it.isprintable() and it != "\n"}
    assert not acting, (command, sorted(map(ascii, acting)))


def check_lines(command: list[str], done: Done) -> None:
    """No line is one that a foreign text made, and no markup in it was obeyed."""
    for line in (done.stdout + done.stderr).splitlines():
        assert not line.startswith("Requested by    os:alice"), command
    joined = "".join(it.strip() for it in done.stdout.splitlines())
    if command == ["status", "iris", "-o", "wide"] and "\x1b" not in joined:
        assert r"[red]r[/red][link=http://evil]l[/link]:smile:" in joined


def test_a_tag_cannot_be_taken_for_two(cli: InProcess) -> None:
    tags = ["--tag", "a=1, approved=yes", "--tag", "b=2=3"]
    done = cli.run("deploy", "models:/iris/1", "--name", "iris", *tags, "-o", "wide")
    assert re.search(r'^Tags +a="1, approved=yes", b=2=3$', done.stdout, re.MULTILINE)


def test_a_server_s_log_is_spelled_out(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployledger.service.deployment_service import DeploymentService

    async def lines(*_: Any, **__: Any) -> Any:
        yield f"\x1b[31mINFO\x1b[0m\tready{ACTS}"

    monkeypatch.setattr(DeploymentService, "deployment_logs", lines)
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    done = cli.run("logs", "iris")
    assert done.stdout.startswith(r"\u001b[31mINFO\u001b[0m   ready\u001b[7A")
    check(["logs"], done.stdout)


def test_only_the_terminal_and_the_streams_write(request: pytest.FixtureRequest) -> None:
    """A new command cannot forget to spell out what it prints."""
    folder = request.config.rootpath / "adapters" / "deployledger" / "adapters" / "cli"
    for file in sorted(folder.glob("*.py")):
        if file.name in ("streams.py", "terminal.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            used = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call) else ""
            writes = re.match(r"sys\.(__)?std(out|err)(__)?\.|print\(|typer\.(echo|secho)|Console\(", used)
            assert not writes, f"{file.name}, line {getattr(node, 'lineno', 0)}: {used}"


def test_a_terminal_shows_no_links_and_no_controls_whoever_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("[link=http://evil]x[/link]")
    table.add_row(Text(f"a{ACTS}"))
    terminal = Terminal()
    terminal.print(table, f"[link=http://evil]y[/link]{ACTS}", Text(ACTS), ":smile:")
    shown = capsys.readouterr().out
    check(["print"], shown)
    assert ":smile:" in shown


# Output that fails ---------------------------------------------------------------------------------------

FULL, UNREAD = errno.ENOSPC, errno.EPIPE


def broken(number: int) -> Output:
    return Output(Failing(number))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16", "shift_jis"])
def test_what_the_encoding_lacks_is_escaped(cli: InProcess, encoding: str) -> None:
    stdout, stderr = Output(encoding=encoding), Output(encoding=encoding)
    done = cli.run(
        "deploy",
        "models:/größe/1",
        "--name",
        "iris",
        "--tag",
        "team=żółw 🌷",
        "-o",
        "wide",
        stdout=stdout,
        stderr=stderr,
    )
    assert done.exit_code == 0
    assert "żółw" in done.stdout or r"\u017c" in done.stdout
    assert "Fetched in " in done.stderr


@pytest.mark.parametrize("number", [FULL, UNREAD])
def test_a_deployment_succeeds_though_its_answer_is_not_written(cli: InProcess, number: int) -> None:
    done = cli.run("deploy", "models:/iris/1", "--name", "iris", stdout=broken(number))
    assert done.exit_code == 0
    assert "The command took effect, but its answer could not be written" in done.stderr
    assert json.loads(cli.run("status", "iris", "-o", "json").stdout)["status"] == "active"
    for command in (["update", "iris", "--tag", "a=b"], ["delete", "iris"]):
        assert cli.run(*command, stdout=broken(number), stderr=broken(number)).exit_code == 0


def test_a_deployment_that_fails_does_so_though_its_answer_is_not_written(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployledger.service.pipeline import Pipeline

    async def fail(*_: object) -> Any:
        raise OSError("no")

    monkeypatch.setattr(Pipeline, "_package", fail)
    for stdout in (Output(), broken(FULL), broken(UNREAD)):
        done = cli.run("deploy", "models:/iris/1", "--name", "iris", "--update-existing", stdout=stdout)
        assert done.exit_code == 1


@pytest.mark.parametrize("command", [["list"], ["status", "iris"], ["log", "tail"], ["--help"]])
def test_an_answer_that_is_not_written_is_a_failure_with_one_sentence(
    cli: InProcess, command: list[str]
) -> None:
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    full = cli.run(*command, stdout=broken(FULL))
    assert (full.exit_code, full.stderr.count("could not be written")) == (1, 1)
    unread = cli.run(*command, stdout=broken(UNREAD))
    assert (unread.exit_code, "could not" in unread.stderr) == (141, False)
    assert cli.run(*command, stderr=broken(FULL)).exit_code == 0
    assert cli.run(*command, stdout=broken(FULL), stderr=broken(FULL)).exit_code == 1


def test_an_answer_in_json_that_is_not_written_is_an_error_in_json(cli: InProcess) -> None:
    done = cli.run("list", "--output", "json", stdout=broken(FULL))
    assert json.loads(done.stderr.splitlines()[-1])["error"]["reason"] == "output_failed"
    assert done.exit_code == 1


def test_a_failed_verification_is_told_though_nobody_reads_it(cli: InProcess) -> None:
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    assert cli.run("audit", "verify").exit_code == 1
    assert cli.run("audit", "verify", stdout=broken(FULL)).exit_code == 1


def test_log_records_are_on_one_line_each() -> None:
    from deployledger.adapters.cli.terminal import LogFormatter

    formatter = LogFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError(FORGED)
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("service", logging.WARNING, "f.py", 1, "of %s", (FORGED,), error)
    first, *traceback = formatter.format(record).splitlines()
    assert first.startswith(r"WARNING of x\u001b[7A")
    check(["logging"], "\n".join([first, *traceback]))
    assert traceback[0] == "Traceback (most recent call last):"


# Standard streams in the place of files -------------------------------------------------------------------


class Given:
    """Standard input."""

    def __init__(self, content: bytes, *, is_terminal: bool = False) -> None:
        import io

        self.buffer = io.BytesIO(content)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_a_log_goes_through_standard_output_and_input(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    stdout = Output(encoding="latin-1")
    done = cli.run("log", "export", "-", stdout=stdout)
    assert "Exported" in done.stderr
    exported = stdout.raw.content  # type: ignore[attr-defined]  # it is what keeps it
    monkeypatch.setattr("sys.stdin", Given(exported))
    other = InProcess(f"sqlite:///{tmp_path}/other.db", monkeypatch)
    assert other.run("log", "import", "-").exit_code == 0
    digests = [json.loads(it.run("replay", "-o", "json").stdout)["digest"] for it in (cli, other)]
    assert digests[0] == digests[1]
    # A file that is called so is written with its folder.
    monkeypatch.chdir(tmp_path)
    assert cli.run("log", "export", "./-").exit_code == 0
    assert (tmp_path / "-").exists()


def test_an_export_is_not_written_on_a_terminal(cli: InProcess) -> None:
    for command in (["log", "export", "-"], ["audit", "export", "-", "--since", "1h"]):
        cli.run("deploy", "models:/iris/1", "--name", "iris")
        done = cli.run(*command, stdout=Output(is_terminal=True))
        assert done.exit_code == 2
        assert "Standard output is a terminal" in done.stderr
        assert done.stdout == ""


def test_evidence_keys_and_checkpoints_come_from_standard_input(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    assert cli.run("audit", "keygen", key, "--name", "example.com/iris").exit_code == 0
    note = cli.run("audit", "checkpoint", "--key", key).stdout
    stdout = Output(encoding="latin-1")
    assert cli.run("audit", "export", "-", "--since", "1h", "--key", key, stdout=stdout).exit_code == 0
    evidence = stdout.raw.content  # type: ignore[attr-defined]
    (tmp_path / "e.zip").write_bytes(evidence)
    for content, command in (
        (evidence, ["verify-evidence", "-", "--key", public]),
        (public.read_bytes(), ["verify-evidence", tmp_path / "e.zip", "--key", "-"]),
        (note.encode(), ["verify", "--checkpoint", "-", "--key", public]),
    ):
        monkeypatch.setattr("sys.stdin", Given(content))
        assert cli.run("audit", *command).exit_code == 0, command
    for stream in (Output(encoding="ascii"), broken(FULL), broken(UNREAD), None):
        monkeypatch.setattr("sys.stdout", stream)
        assert verify_alone([str(tmp_path / "e.zip"), "--key", str(public)]) == 0


def test_standard_input_is_read_for_one_file_and_not_from_a_terminal(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stdin in (None, Given(b"", is_terminal=True), Given(b"x")):
        monkeypatch.setattr("sys.stdin", stdin)
        done = cli.run("audit", "verify-evidence", "-", "--key", "-")
        assert done.exit_code == 2
        assert "Standard input is " in done.stderr


def test_what_a_batch_job_reads_from_standard_input_is_kept(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path / "home"))
    batch = ["--type", "batch_inference_job", "--output-uri", tmp_path / "out.csv", "--input", "-"]
    for name, content, suffix in (("a", b"x,y\n1,2\n", "csv"), ("b", b'\xef\xbb\xbf {"x": 1}\n', "jsonl")):
        monkeypatch.setattr("sys.stdin", Given(content))
        done = cli.run("deploy", "models:/iris/1", "--name", name, *batch, "-o", "json")
        kept = Path(json.loads(done.stdout)["deployment_target_config"]["input_uri"])
        assert kept.read_bytes() == content
        assert (kept.parent, kept.suffix) == (tmp_path / "home" / "inputs", f".{suffix}")
        assert kept.stat().st_mode & 0o077 == kept.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "command",
    [
        ["deploy", "-", "--name", "iris"],
        ["deploy", "models:/iris/1", "--name", "iris", "--output-uri", "-"],
        ["update", "iris", "--model-uri", "-"],
        ["audit", "keygen", "-", "--name", "example.com/iris"],
        ["audit", "checkpoint", "--to", "-"],
    ],
)
def test_a_standard_stream_is_refused_where_a_file_is_needed_later(
    cli: InProcess, command: list[str]
) -> None:
    done = cli.run(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "A standard stream cannot be used here" in done.stderr


def test_a_tag_that_is_given_twice_has_one_value(cli: InProcess) -> None:
    refused = cli.run("deploy", "models:/iris/1", "--name", "iris", "--tag", "a=1", "--tag", "a=2")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "The tag 'a' was given with two values" in refused.stderr


def test_a_tag_without_its_key_is_not_repeated(cli: InProcess) -> None:
    for command in (("deploy", "models:/iris/1", "--name", "iris"), ("list",)):
        for tag in ("=hunter2-Secret", *(["hunter2-Secret"] if command[0] == "deploy" else [])):
            refused = cli.run(*command, "--tag", tag)
            assert (refused.exit_code, refused.stdout) == (2, "")
            assert "hunter2" not in refused.stderr


def test_a_query_by_a_name_that_begins_an_id_says_whom_it_is_about(cli: InProcess) -> None:
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    (one,) = json.loads(cli.run("list", "-o", "json").stdout)
    name = one["deployment_id"][:8]
    cli.run("deploy", "models:/iris/1", "--name", name)
    for command in (("status", name), ("history", name), ("status", name, "--as-of", "now")):
        done = cli.run(*command)
        assert done.exit_code == 0
        assert "is taken as the name of deployment" in done.stderr
        assert f"the id of deployment {one['deployment_id']} begins with it, too." in done.stderr
    assert "is taken for" not in cli.run("status", "iris").stderr


def test_now_is_a_moment_as_it_is_shown(cli: InProcess) -> None:
    cli.run("deploy", "models:/iris/1", "--name", "iris")
    cli.run("update", "iris", "--tag", "a=b")
    for command in (["status", "iris", "--as-of"], ["list", "--as-of"], ["list", "--created-before"]):
        assert "iris" in cli.run(*command, "now").stdout
    assert "tags.a" in cli.run("diff", "iris", "--to", "now").stdout
