"""Refused commands: in the words of their options, and with the commands that help."""

from pathlib import Path

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.events import DeletionFailed
from deployledger.domain.names import NameReservation
from tests.domain.given import (
    FAILURE,
    SERVING,
    Happening,
    cancelled,
    deletion_requested,
    failed,
    happened,
    history,
    new_id,
    requested,
    update_requested,
)
from tests.domain.given import context as command
from tests.e2e.in_process import InProcess

DELETION_FAILED = happened(DeletionFailed, revision=1, failure=FAILURE)

HOLDERS: list[tuple[tuple[Happening, ...], str, str]] = [
    (
        (requested(), failed()),
        "that failed * ago (server exited)",
        "update iris --model-uri 'my model.onnx'`",
    ),
    ((*SERVING, update_requested(), failed(2)), "whose update failed * ago (server exited)", "update iris"),
    (SERVING, "that is active", "`deployledger update iris --model-uri"),
    ((*SERVING, update_requested()), "that is updating", "`deployledger update iris --model-uri"),
    ((requested(), cancelled()), "that is cancelled", "`deployledger delete iris` frees the name"),
    ((*SERVING, deletion_requested()), "that is deleting", "`deployledger status iris --watch`"),
    (
        (*SERVING, deletion_requested(), DELETION_FAILED),
        "whose deletion failed * ago (server exited)",
        "`deployledger delete iris` frees the name.",
    ),
]


@pytest.mark.parametrize(("past", "how", "hint"), HOLDERS, ids=lambda it: it if isinstance(it, str) else "")
def test_a_name_in_use_says_how_its_holder_is_and_what_helps(
    past: tuple[Happening, ...], how: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, _, end = how.partition("*")
    done = holding(past, tmp_path, monkeypatch).run("deploy", "my model.onnx", "--name", "iris")
    assert done.exit_code == 4
    assert f"The name 'iris' is in use by a deployment {begin}" in done.stderr
    assert f"{end}." in done.stderr
    assert hint in done.stderr
    assert "version_strategy" not in done.stderr


def test_a_renaming_to_a_name_in_use_says_what_frees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = holding((requested(), failed()), tmp_path, monkeypatch)
    assert cli.run("deploy", "models:/rose/1", "--name", "rose").exit_code == 0
    done = cli.run("update", "rose", "--name", "iris")
    assert done.exit_code == 4
    assert "that failed" in done.stderr
    assert "Choose another name" in done.stderr
    assert "update iris" not in done.stderr


OPTIONS = [
    (["deploy", "m", "--name", "x", "--cpu", "much"], "'--cpu': 'much' is not a Kubernetes quantity"),
    (["deploy", "m", "--name", "x", "--serving-image", "a" * 9000], "'--serving-image': it has more than"),
    (["deploy", "m", "--name", "x", "--replicas", "1001"], "'--replicas': it must be at most 1000."),
    (["deploy", "file://host/m", "--name", "x"], "the model URI: 'file://host/m' is a file on another"),
    (["deploy", "m", "--name", "x/y"], "'--name': 'x/y' is not a legal deployment name"),
    (["update", "iris", "--gpu", "1GB"], "'--gpu': '1GB' is not a Kubernetes quantity"),
    (["delete", "iris", "--expected-version", "0"], "'--expected-version': it must be at least 1."),
    (["list", "--selector", "a=b"], "No such option: --selector (Possible options: --tag)."),
]


def test_a_refused_request_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = holding(SERVING, tmp_path, monkeypatch)
    for arguments, problem in OPTIONS:
        done = cli.run(*arguments)
        assert done.exit_code == 2, done.stderr
        assert problem in done.stderr
        assert "_request" not in done.stderr


def test_a_deployment_that_is_not_there_leads_to_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = holding(SERVING, tmp_path, monkeypatch)
    for reference in ("nobody", str(new_id())):
        assert "`deployledger list` shows what there is." in cli.run("status", reference).stderr


def holding(past: tuple[Happening, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Return a command line where the deployment ``iris`` has a past."""
    database_url = f"sqlite:///{tmp_path / 'events.db'}"
    log = open_event_log(database_url, create=True)
    deployment_id = new_id()
    reservation = NameReservation("iris")
    reservation.reserve(deployment_id, by=command())
    log.append([*history(*past, stream=deployment_id), *reservation.collect_events()])
    log.close()
    return InProcess(database_url, monkeypatch)
