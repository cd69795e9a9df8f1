"""Retrying, cancelling and deleting all deployments that match filters."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from deployledger.adapters.cli import bulk
from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog, events_of
from deployledger.domain.exceptions import EventLogError
from deployledger.service.deployment_service import DeploymentService
from tests.domain.given import (
    SERVING,
    Happening,
    failed,
    history,
    new_id,
    requested,
    update_requested,
)
from tests.e2e.in_process import Done, InProcess, Output

STREAMS = {name: new_id() for name in ("iris", "rose", "tulip", "aster", "zinnia", "moss")}
PASTS: dict[str, tuple[Happening, ...]] = {
    "iris": (failed(),),
    "rose": (failed(),),
    "tulip": (),
    "aster": SERVING[1:],
    "zinnia": (*SERVING[1:], update_requested(name="zinnia"), failed(2)),
}
FAILED = ["retry", "--status", "failed"]


def add(log: EventLog, name: str, past: tuple[Happening, ...], orchestrator: str = "simulated") -> None:
    begin = requested(name=name, orchestrator=orchestrator, tags={"team": name[0]})
    log.append(history(begin, *past, stream=STREAMS[name]))


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    """A log with deployments that failed, are being made, and serve; the update of one failed."""
    log = open_event_log(database_url, create=True)
    for name, past in PASTS.items():
        add(log, name, past)
    yield log
    log.close()


@pytest.fixture
def background() -> list[Any]:
    """The deployments whose jobs were left to processes in the background."""
    return []


@pytest.fixture
def cli(
    log: EventLog, database_url: str, monkeypatch: pytest.MonkeyPatch, background: list[Any]
) -> InProcess:
    async def nobody_left(*_: object) -> None:
        return None

    monkeypatch.setattr(bulk, "resume_in_background", background.append)
    monkeypatch.setattr(bulk, "resume_if_left", nobody_left)
    return InProcess(database_url, monkeypatch)


def retries(log: EventLog) -> dict[str, int]:
    """Return how often each deployment was retried, of those that were."""
    counts = Counter(
        name
        for name, stream in STREAMS.items()
        for it in events_of(log, stream)
        if it.TOPIC == "deployment.retry_requested"
    )
    return dict(counts)


def outcomes(done: Done) -> dict[str, str]:
    return {it["deployment_name"]: it["outcome"] for it in json.loads(done.stdout)["deployments"]}


# What is done ---------------------------------------------------------------------------------------


def test_all_that_failed_are_retried_after_a_plan(cli: InProcess, log: EventLog) -> None:
    done = cli.run(*FAILED, "--since", "2000-01-01T00:00Z", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "retry revision 2; revision 1 keeps serving" in done.stdout
    for name in ("iris", "rose", "zinnia"):
        assert f"✓ {name} retried\n" in done.stdout
    assert done.stdout.endswith("3 of 3 deployments retried.\n")
    assert retries(log) == {"iris": 1, "rose": 1, "zinnia": 1}

    again = cli.run(*FAILED, "--yes")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "No deployment matches.\n")


def test_what_has_nothing_to_retry_is_skipped_and_why(cli: InProcess, log: EventLog) -> None:
    dry = cli.run("retry", "--tag", "team", "--dry-run")
    assert "skip (active: there is nothing to retry)" in dry.stdout
    assert dry.stdout.endswith("Would retry 3 of 5 deployments.\n")
    assert retries(log) == {}
    nothing = cli.run("retry", "--name", "aster")  # so nobody need be asked
    assert (nothing.exit_code, nothing.stdout.splitlines()[-1]) == (0, "There is nothing to retry.")
    done = cli.run("retry", "--tag", "team", "--yes", "-o", "json")
    assert done.exit_code == 0
    assert outcomes(done) == {
        "iris": "done",
        "rose": "done",
        "tulip": "skipped",
        "aster": "skipped",
        "zinnia": "done",
    }


def test_deployments_are_deleted_and_cancelled_likewise(cli: InProcess, log: EventLog) -> None:
    assert outcomes(cli.run("cancel", "--status", "creating", "--yes", "-o", "json")) == {"tulip": "done"}
    assert events_of(log, STREAMS["tulip"])[-1].TOPIC == "deployment.cancelled"
    done = cli.run("delete", "--name", "T", "--until", "now", "--yes")
    assert "✓ aster deleted\n" in done.stdout
    assert done.stdout.endswith("2 of 2 deployments deleted.\n")
    left = [it["deployment_name"] for it in json.loads(cli.run("list", "-o", "json").stdout)]
    assert left == ["iris", "rose", "zinnia"]


def test_a_single_deployment_may_be_planned_too(cli: InProcess, log: EventLog) -> None:
    assert "delete; it serves http://one" in cli.run("delete", "aster", "--dry-run").stdout
    assert outcomes(cli.run("retry", "iris", "--dry-run", "-o", "json")) == {"iris": "planned"}
    assert retries(log) == {}
    assert events_of(log, STREAMS["aster"])[-1].TOPIC == "deployment.provisioned"


def test_jobs_that_are_not_waited_for_are_left_to_the_background(
    cli: InProcess, background: list[Any], log: EventLog
) -> None:
    done = cli.run(*FAILED, "--name", "iris", "--no-wait", "--yes")
    assert done.exit_code == 0
    assert done.stdout.endswith("0 of 1 deployment retried; 1 in progress.\n")
    assert background == [STREAMS["iris"]]


def test_every_page_of_the_list_is_taken(
    cli: InProcess, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_PAGE", 2)
    assert len(outcomes(cli.run("retry", "--tag", "team", "--dry-run", "-o", "json"))) == 5


# What is asked, and refused -------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["-o", "json"]], ids=["table", "json"])
def test_where_nobody_can_be_asked_nothing_is_changed(
    cli: InProcess, log: EventLog, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = cli.run(*FAILED, *more)
    assert done.exit_code == 2
    assert "there is no terminal to ask whether to retry 3 deployments." in done.stderr
    assert "Add --yes to retry without being asked" in done.stderr
    assert retries(log) == {}


@pytest.mark.parametrize(("answer", "exit_code", "number"), [(True, 0, 3), (False, 1, 0), (None, 1, 0)])
def test_on_a_terminal_it_is_asked_first(
    cli: InProcess,
    log: EventLog,
    answer: bool | None,
    exit_code: int,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        if answer is None:  # Ctrl-C, or the end of the input
            raise typer.Abort
        return answer

    monkeypatch.setattr(bulk.typer, "confirm", confirm)
    monkeypatch.setattr(sys, "stdin", Output(is_terminal=True))
    done = cli.run(*FAILED, stderr=Output(is_terminal=True))
    assert (done.exit_code, questions) == (exit_code, ["Retry 3 deployments?"])
    assert sum(retries(log).values()) == number
    assert ("Nothing was changed." in done.stderr) == (number == 0)


UNCLEAR = [
    (["delete"], "Neither a deployment nor a filter was given.", "Give a name or an id, or filters"),
    (["delete", "--yes"], "Neither a deployment nor a filter was given.", "Give a name or an id"),
    (["retry", "iris", "--status", "failed"], "A deployment and filters contradict each other.", "Give"),
    (["cancel", "--name", "i", "--expected-version", "2"], "--expected-version is for", "Omit it"),
    (["retry", "--name", "i", "--idempotency-key", "k"], "--idempotency-key is for", "Omit it"),
    (["delete", "iris", "--dry-run", "--expected-version", "2"], "--expected-version is for", "Omit"),
    (["delete", "--name", "", "--yes"], "is not a valid search text", ""),
    (["delete", "--tag", "", "--yes"], "A tag is KEY or KEY=VALUE", ""),
    (["delete", "--since", "1h", "--until", "2h"], "is not before --until", "Give --since the earlier"),
    (["retry", "nobody", "--dry-run"], "'nobody' was not found", ""),
]


def test_what_is_not_clear_is_refused(cli: InProcess, log: EventLog) -> None:
    before = log.position()
    for arguments, message, hint in UNCLEAR:
        done = cli.run(*arguments, "-o", "json")
        error = json.loads(done.stderr)["error"]
        assert done.exit_code in (2, 3), arguments
        assert message in error["message"], arguments
        assert error["hint"].startswith(hint), arguments
    assert log.position() == before


# What goes wrong in between -------------------------------------------------------------------------


def test_what_changed_after_the_plan_is_skipped(
    cli: InProcess, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agreed_meanwhile(self: bulk.Bulk, number: int) -> bool:
        log.append([update_requested(2, name="rose")(STREAMS["rose"], 3)])
        return True

    monkeypatch.setattr(bulk.Bulk, "_is_agreed", agreed_meanwhile)
    done = cli.run(*FAILED, "-o", "json")
    assert done.exit_code == 1
    assert outcomes(done) == {"iris": "done", "rose": "changed", "zinnia": "done"}
    assert retries(log) == {"iris": 1, "zinnia": 1}
    assert "is at version 3, not 2" in done.stdout


def test_one_of_another_orchestrator_does_not_hold_up_the_others(cli: InProcess, log: EventLog) -> None:
    add(log, "moss", (failed(),), orchestrator="other")
    done = cli.run(*FAILED, "--yes")
    assert done.exit_code == 1
    assert "belongs to the orchestrator 'other'" in done.stdout
    assert retries(log) == {"iris": 1, "rose": 1, "zinnia": 1}


def interrupt_after(
    number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch, log: EventLog
) -> None:
    """Let so many deployments be retried, then raise."""
    retry = DeploymentService.retry_deployment

    async def once(self: DeploymentService, *arguments: Any, dry_run: bool = False, **options: Any) -> Any:
        if not dry_run and sum(retries(log).values()) == number:
            monkeypatch.setattr(DeploymentService, "retry_deployment", retry)
            raise error
        return await retry(self, *arguments, dry_run=dry_run, **options)

    monkeypatch.setattr(DeploymentService, "retry_deployment", once)


def test_interrupted_and_repeated_it_retries_each_once(
    cli: InProcess, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(2, KeyboardInterrupt(), monkeypatch, log)
    done = cli.run(*FAILED, "--yes")
    assert done.exit_code == 130
    assert "Interrupted after 2 deployments." in done.stderr
    assert cli.run(*FAILED, "--yes").exit_code == 0
    assert retries(log) == {"iris": 1, "rose": 1, "zinnia": 1}


def test_without_the_database_the_rest_is_not_tried(
    cli: InProcess, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(1, EventLogError("The event log is away."), monkeypatch, log)
    done = cli.run(*FAILED, "--yes")
    assert done.exit_code == 1
    assert "✗ rose not retried: The event log is away." in done.stdout
    assert done.stdout.endswith("1 of 3 deployments retried; 1 refused, 1 not tried.\n")


def test_a_dry_run_of_the_service_says_what_the_answer_would_be(cli: InProcess, log: EventLog) -> None:
    async def ask() -> None:
        async with cli._open() as service:
            before = log.position()
            retried = await service.retry_deployment(STREAMS["iris"], dry_run=True)
            assert (retried.status, retried.version) == ("creating", 3)
            deleted = await service.delete_deployment(STREAMS["aster"], dry_run=True)
            cancelled_ = await service.cancel_deployment(STREAMS["tulip"], dry_run=True)
            assert (deleted.status, cancelled_.status) == ("deleting", "inactive")
            assert log.position() == before

    asyncio.run(ask())
