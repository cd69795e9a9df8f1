"""Deployments at a glance, at several widths: what is left out first, and what never is."""

import json
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console, RenderableType

from deployledger.adapters.cli import status_commands
from deployledger.adapters.cli.example_commands import ExampleCommands
from deployledger.adapters.cli.fleet_table import DeploymentTable
from deployledger.adapters.cli.overview import Overview, outcome_lines, status_lines, watched_line
from deployledger.adapters.cli.units import Clock
from deployledger.domain.ports import Observation
from deployledger.domain.reasons import FailureReason
from deployledger.domain.responses import DeploymentHistoryEntry, DeploymentStatusResponse
from deployledger.domain.values import Failure, Progress, Step
from deployledger.serving import ModelDescription
from tests.domain.given import BATCH_JOB, SERVICE

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
ID = UUID("68a00851-7079-4dee-b164-49e23e26e1d7")
FILES, IMAGE = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
FAILURE = Failure(
    step=Step.FETCH,
    reason=FailureReason.MODEL_NOT_FOUND,
    message="There is no model 'wine'.",
    hint="Check the name.",
)


def deployment(**fields: Any) -> DeploymentStatusResponse:
    given: dict[str, Any] = {
        "deployment_id": ID,
        "deployment_name": "iris",
        "model_uri": "/home/ann/models/iris-v1.onnx",
        "status": "active",
        "state": "active",
        "version": 4,
        "created_at": NOW - timedelta(minutes=3),
        "updated_at": NOW - timedelta(minutes=3),
        "deployment_target_config": SERVICE,
        "requested_by": "ann",
    }
    return DeploymentStatusResponse(**(given | fields))


def active(**fields: Any) -> DeploymentStatusResponse:
    given: dict[str, Any] = {
        "endpoint_url": "http://127.0.0.1:38881",
        "serving_revision": 1,
        "deployed_model_version": "/home/ann/models/iris-v1.onnx",
        "artifact_digest": FILES,
        "image_digest": IMAGE,
        "serving_artifact_digest": FILES,
        "serving_image_digest": IMAGE,
    }
    return deployment(**(given | fields))


def entry(version: int, event: str, ago: float, **fields: Any) -> DeploymentHistoryEntry:
    """Return an event of so many seconds ago."""
    at = NOW - timedelta(seconds=ago)
    given: dict[str, Any] = {
        "version": version,
        "position": version,
        "event": event,
        "topic": "deployment.x",
        "timestamp": at,
        "recorded_at": at,
        "actor": "ann",
        "revision": 1,
        "event_id": ID,
        "correlation_id": None,
    }
    return DeploymentHistoryEntry(**(given | fields))


def status_change(after: str) -> list[dict[str, Any]]:
    return [{"field": "status", "before": None, "after": after}]


FIRST = [
    entry(1, "Requested", 182, changes=status_change("creating")),
    entry(
        2,
        "ArtifactsFetched",
        181.9,
        step="fetch",
        duration=0.1,
        data={"artifact": {"digest": FILES, "size_bytes": 523}},
    ),
    entry(
        3,
        "Packaged",
        181.7,
        step="package",
        duration=0.2,
        data={"image": {"digest": IMAGE, "size_bytes": 3_741}},
    ),
    entry(4, "Provisioned", 180, step="provision", duration=1.7, changes=status_change("active")),
]


def lines(shown: RenderableType, width: int = 80, *, is_terminal: bool = True) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, force_terminal=is_terminal, color_system=None).print(shown, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def status(
    of: DeploymentStatusResponse, history: Iterable[DeploymentHistoryEntry], width: int = 80
) -> list[str]:
    return lines(status_lines(Overview(of, [*history], Clock(NOW, UTC))), width)


# Lists -----------------------------------------------------------------------------------------------


def test_narrow_lists_lose_what_is_needed_least() -> None:
    failed = deployment(status="failed", state="failed", failure=FAILURE, failed_at=NOW - timedelta(hours=3))
    table = DeploymentTable([active(), failed], NOW)
    by_width = {width: lines(table, width)[0].split() for width in (130, 100, 80, 60, 36, 20)}
    kept = ["NAME", "STATUS"]
    assert by_width == {
        130: [*kept, "REASON", "REV", "MODEL", "ENDPOINT", "AGE", "BY", "FILES", "ID"],
        100: [*kept, "REASON", "REV", "MODEL", "ENDPOINT", "AGE", "ID"],
        80: [*kept, "REASON", "REV", "MODEL", "AGE", "BY", "ID"],
        60: [*kept, "REASON", "MODEL", "AGE"],
        36: [*kept, "MODEL", "AGE"],
        20: [*kept, "AGE"],
    }
    assert lines(table, 60)[2] == "iris  ✗ failed  model_not_found 3h ago  iris-v1.onnx  3m"
    assert max(map(len, lines(table, 60))) <= 60


def test_names_and_statuses_are_whole_on_a_narrow_terminal() -> None:
    name = "recommendation-service-for-the-home-page-of-the-mobile-app"
    stuck = deployment(deployment_name=name, status="delete_failed", state="delete_failed")
    _, first, *others = lines(DeploymentTable([stuck], NOW), 60)
    beginning, _, end = first.partition("  ✗ delete_failed")
    assert beginning.strip() + "".join(others) == name
    assert end == ""


def test_a_piped_list_has_a_word_a_status_and_every_usual_column() -> None:
    heading, row = lines(DeploymentTable([active()], NOW), 10_000, is_terminal=False)
    assert heading.split() == ["NAME", "STATUS", "REASON", "REV", "MODEL", "ENDPOINT", "AGE", "ID"]
    endpoint = "http://127.0.0.1:38881"
    assert row.split() == ["iris", "active", "-", "1", "iris-v1.onnx", endpoint, "3m", "68a00851"]


def test_a_wide_list_says_why_whole_and_loses_nothing() -> None:
    failed = deployment(
        status="failed", state="failed", revision=2, failure=FAILURE, failed_at=NOW - timedelta(hours=3)
    )
    table = DeploymentTable([failed], NOW, is_wide=True)
    assert lines(table, 60)[1:] == [
        "iris  ✗ failed  model_not_found 3h ago  2    3m   68a00851",
        "    model /home/ann/models/iris-v1.onnx, by ann",
        "    fetch: There is no model 'wine'. Check the name.",
    ]
    piped = lines(table, 10_000, is_terminal=False)
    assert len(piped) == 2, "a line a deployment"
    assert piped[1].endswith("  fetch: There is no model 'wine'. Check the name.")
    assert "  /home/ann/models/iris-v1.onnx  " in piped[1]


@pytest.mark.parametrize(
    ("status", "state", "mark"),
    [
        ("active", "active", "✓"),
        ("inactive", "completed", "✓"),
        ("inactive", "cancelled", "–"),
        ("inactive", "deleted", "–"),
        ("failed", "failed", "✗"),
        ("delete_failed", "delete_failed", "✗"),
        ("creating", "packaged", "•"),
        ("updating", "requested", "•"),
        ("deleting", "deleting", "•"),
    ],
)
def test_a_mark_says_what_a_status_means(status: str, state: str, mark: str) -> None:
    assert (
        f"iris  {mark} {status}" in lines(DeploymentTable([deployment(status=status, state=state)], NOW))[1]
    )


def test_a_batch_job_that_runs_is_not_marked_as_done() -> None:
    progress = Progress(step=Step.RUN, steps_done=3, steps_total=4, done=512, total=1_024, unit="rows")
    job = deployment(progress=progress, deployment_target_config=BATCH_JOB)
    assert lines(DeploymentTable([job], NOW))[1].startswith("iris  • active  run (4 of 4)")
    shown = status(job, [*FIRST, entry(5, "Provisioned", 3, step="provision", duration=1.0)])
    assert "Running revision 1: step 4 of 4" in shown
    assert shown[-1] == "  Run           • 3.0 s so far, 512 of 1,024 rows"


def test_what_was_cancelled_says_what_to_do_next() -> None:
    shown = status(deployment(status="inactive", state="cancelled"), FIRST[:1])
    assert shown[0].startswith("– iris  inactive: cancelled ")
    assert "  Retry         deployledger retry iris" in shown


def test_deleted_ones_are_listed_with_their_ids_at_any_width() -> None:
    deleted = deployment(status="inactive", state="deleted")
    assert lines(DeploymentTable([deleted], NOW), 36)[1] == "iris  – inactive  deleted  68a00851"


def test_a_row_is_of_what_serves_and_its_reason_of_the_newest_revision() -> None:
    files = "sha256:" + "ef" * 32
    newest: dict[str, Any] = {"revision": 2, "model_uri": "models:/wine/2", "artifact_digest": files}
    updating = Progress(step=Step.PACKAGE, steps_done=1, steps_total=3)
    fetching = active(**newest, requested_by="ben", serving_requested_by="ann", progress=updating)
    cancelled = active(**newest)
    failed = active(**newest, status="failed", state="failed", failure=FAILURE, failed_at=NOW)
    undeleted = active(
        **newest, status="delete_failed", state="delete_failed", failure=FAILURE, failed_at=NOW
    )
    heading, *rows = lines(DeploymentTable([fetching, cancelled, failed, undeleted], NOW), 150)
    at = {name: heading.index(name) for name in ("REASON", "REV", "MODEL", "BY", "FILES")}
    assert [row[at["REASON"] : at["REV"]].strip() for row in rows] == [
        "r2 package (2 of 3)",
        "r2 cancelled",
        "r2 model_not_found 0s ago",
        "model_not_found 0s ago",
    ]
    for row in rows:
        assert row[at["MODEL"] :].startswith("iris-v1.onnx")
        assert row[at["FILES"] :].startswith("sha256:abababab")
    assert rows[0][at["BY"] :].startswith("ann")
    wide = lines(DeploymentTable([failed], NOW, is_wide=True), 10_000, is_terminal=False)
    assert wide[1].endswith(
        "revision 2: models:/wine/2 by ann; fetch: There is no model 'wine'. Check the name."
    )


# One deployment --------------------------------------------------------------------------------------


def test_an_active_deployment_at_a_glance() -> None:
    assert status(active(), FIRST) == [
        "✓ iris  active for 3m (since 11:57:00 UTC)",
        "  Endpoint      http://127.0.0.1:38881",
        "Serving revision 1",
        "  Model         iris-v1.onnx",
        "  Files         sha256:abababab, 523 B",
        "  Image         sha256:cdcdcdcd, 3.7 kB",
        "  Requested     3m ago (11:56:58 UTC) by ann",
    ]


def test_an_update_in_progress_shows_its_steps_and_their_usual_time() -> None:
    updating = active(
        status="updating",
        state="artifacts_fetched",
        version=6,
        revision=2,
        model_uri="models:/iris/2",
        artifact_digest="sha256:" + "ef" * 32,
        image_digest=None,
        progress=Progress(step=Step.PACKAGE, steps_done=1, steps_total=3),
    )
    update = [
        entry(5, "UpdateRequested", 5, revision=2, actor="ben", changes=status_change("updating")),
        entry(6, "ArtifactsFetched", 4, revision=2, step="fetch", duration=1.0),
    ]
    shown = status(updating, [*FIRST, *update])
    assert shown[0] == "• iris  updating for 5s (since 11:59:55 UTC)"
    assert "Serving revision 1" in shown
    assert shown[shown.index("Making revision 2: step 2 of 3") + 1 :] == [
        "  Model         models:/iris/2",
        "  Files         sha256:efefefef",
        "  Requested     5s ago (11:59:55 UTC) by ben",
        "  Fetch         ✓ 1.0 s",
        "  Package       • 4.0 s so far, usually 0.20 s",
        "  Provision     – usually 1.7 s",
    ]


def failed_update() -> tuple[DeploymentStatusResponse, list[DeploymentHistoryEntry]]:
    failed = active(
        status="failed",
        state="failed",
        version=6,
        revision=2,
        model_uri="models:/wine/2",
        artifact_digest=None,
        image_digest=None,
        failure=FAILURE,
    )
    events = [
        entry(5, "UpdateRequested", 5, revision=2, actor="ben", changes=status_change("updating")),
        entry(
            6,
            "Failed",
            2,
            revision=2,
            step="fetch",
            data={"failure": FAILURE.model_dump()},
            changes=status_change("failed"),
        ),
    ]
    return failed, [*FIRST, *events]


def test_a_failed_update_says_why_and_what_to_do_next() -> None:
    failed, history = failed_update()
    shown = status(failed, history)
    assert shown[0] == "✗ iris  failed 2s ago (11:59:58 UTC)"
    assert shown[shown.index("Revision 2 failed in fetch: model_not_found") + 1 :] == [
        "  There is no model 'wine'.",
        "  Check the name.",
        "  Model         models:/wine/2",
        "  Requested     5s ago (11:59:55 UTC) by ben",
        "Revision 1 keeps serving. Next:",
        "  Once fixed    deployledger retry iris",
        "  Go back       deployledger rollback iris --to-revision 1",
        "  Delete        deployledger delete iris",
    ]


def cancelled_update() -> tuple[DeploymentStatusResponse, list[DeploymentHistoryEntry]]:
    files = {"digest": "sha256:" + "ef" * 32, "size_bytes": 777, "resolved_uri": "models:/wine/2"}
    cancelled = active(
        version=7,
        revision=2,
        model_uri="models:/wine@best",
        artifact_digest=files["digest"],
        image_digest=None,
    )
    asked = {"model_uri": "models:/wine@best"}
    fetched: dict[str, Any] = {"step": "fetch", "duration": 1.0, "data": {"artifact": files}}
    events = [
        entry(5, "UpdateRequested", 5, revision=2, data=asked, changes=status_change("updating")),
        entry(6, "ArtifactsFetched", 4, revision=2, **fetched),
        entry(7, "Cancelled", 2, revision=2, actor="ben", changes=status_change("active")),
    ]
    return cancelled, [*FIRST, *events]


def test_a_cancelled_update_shows_what_serves_and_what_was_cancelled() -> None:
    cancelled, history = cancelled_update()
    shown = lines(outcome_lines(Overview(cancelled, history, Clock(NOW, UTC))))
    assert shown[1:6] == [
        "  Endpoint      http://127.0.0.1:38881",
        "  Cancelled     revision 2 (models:/wine@best), 2s ago (11:59:58 UTC) by ben",
        "  Revision      1",
        "  Model         iris-v1.onnx",
        "  Files         sha256:abababab, 523 B",
    ]
    assert not any("Took" in line for line in shown)
    assert "  Cancelled     revision 2 (models:/wine@best), 2s ago (11:59:58 UTC) by ben" in status(
        cancelled, history
    )


def test_an_update_shows_its_own_pinned_model_while_another_serves() -> None:
    cancelled, history = cancelled_update()
    packaging = Progress(step=Step.PACKAGE, steps_done=1, steps_total=3)
    updating = cancelled.model_copy(
        update={"version": 6, "status": "updating", "state": "artifacts_fetched", "progress": packaging}
    )
    shown = lines(outcome_lines(Overview(updating, history[:-1], Clock(NOW, UTC))))
    assert shown[2:5] == [
        "  Revision      2",
        "  Model         models:/wine/2 (as models:/wine@best)",
        "  Files         sha256:efefefef, 777 B",
    ]


def test_a_rollback_ends_with_the_revision_that_it_went_back_to() -> None:
    back = entry(8, "UpdateRequested", 1, revision=3, data={"rollback_to": 1})
    shown = lines(outcome_lines(Overview(active(revision=3, serving_revision=3), [*FIRST, back], Clock(NOW))))
    assert "  Revision      3 (rollback to revision 1)" in shown


def test_a_deletion_that_failed_is_not_blamed_on_a_revision() -> None:
    cancelled, history = cancelled_update()
    failure = FAILURE.model_copy(update={"step": Step.DELETE})
    stuck = cancelled.model_copy(
        update={"status": "delete_failed", "state": "delete_failed", "failure": failure}
    )
    assert "Failed in delete: model_not_found" in status(stuck, history)


def test_what_was_deleted_says_who_asked_for_it() -> None:
    deleted = deployment(status="inactive", state="deleted")
    request = entry(5, "DeletionRequested", 9, actor="ben")
    shown = status(deleted, [*FIRST, request, entry(6, "Deleted", 8, step="delete", duration=1.0)])
    assert "  Deletion      requested 9s ago (11:59:51 UTC) by ben" in shown


def test_a_port_in_use_is_mended_by_another_one() -> None:
    failure = FAILURE.model_copy(update={"reason": FailureReason.PORT_IN_USE})
    failed = deployment(status="failed", state="failed", failure=failure)
    assert "  Other port    deployledger update iris --port PORT" in status(failed, FIRST[:1])


def test_a_failed_deployment_says_that_it_holds_its_name() -> None:
    failed = deployment(status="failed", state="failed", failure=FAILURE)
    shown = lines(outcome_lines(Overview(failed, FIRST[:1], Clock(NOW, UTC))))
    assert shown[-4:] == [
        "It holds the name iris until it is deleted. Next:",
        "  Once fixed    deployledger retry iris",
        "  Other model   deployledger update iris --model-uri MODEL_URI",
        "  Delete        deployledger delete iris",
    ]


def test_a_failure_that_was_mended_is_one_line() -> None:
    _, history = failed_update()
    mended = active(version=10, revision=3, serving_revision=3)
    shown = status(mended, [*history, entry(7, "Provisioned", 0, revision=3)])
    assert "  Last failure  2s ago (11:59:58 UTC): fetch of revision 2, model_not_found" in shown


def test_a_retry_shows_the_failure_before_it() -> None:
    failed, history = failed_update()
    again = Progress(step=Step.FETCH, steps_done=0, steps_total=3)
    retried = failed.model_copy(
        update={"failure": None, "status": "updating", "state": "requested", "progress": again}
    )
    retry = entry(7, "RetryRequested", 1, revision=2, changes=status_change("updating"))
    shown = status(retried, [*history, retry])
    assert shown[-3:] == [
        "Last failure 2s ago, in fetch: model_not_found",
        "  There is no model 'wine'.",
        "  Check the name.",
    ]


def test_a_deployment_says_which_steps_were_simulated() -> None:
    history = [FIRST[0], *(it.model_copy(update={"data": {"simulated": True}}) for it in FIRST[1:])]
    assert "  Simulated     ! fetch, package, provision" in status(active(simulated=True), history)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    failed, history = failed_update()
    long = failed.model_copy(update={"failure": FAILURE.model_copy(update={"message": "no room " * 60})})
    for shown in (status(active(), FIRST, width), status(long, history, width)):
        assert max(map(len, shown)) <= width


def test_a_watched_deployment_has_a_line_each_time_it_changes() -> None:
    failed, _ = failed_update()
    of_now = failed.model_copy(update={"updated_at": NOW, "message": "No room\x1b[7A left. " * 5})
    first, *others = lines(watched_line(of_now, Clock(NOW, UTC)), 60)
    assert first.startswith("12:00:00 ✗ failed: No room\\u001b[7A left.")
    assert max(map(len, [first, *others])) <= 60


# Commands that query it ------------------------------------------------------------------------------


def tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def examples(*inputs: dict[str, Any]) -> ExampleCommands:
    metadata = {"name": "iris", "inputs": inputs, "outputs": []}
    return ExampleCommands("iris", "http://h:1", ModelDescription.of_metadata(metadata))


def test_a_query_has_the_inputs_that_the_model_takes() -> None:
    commands = examples(tensor("it's", "FP32", [-1, 2]), tensor("b", "BYTES", [1]))
    short = """deployledger predict iris --data '{"it\\u0027s": [0.0, 0.0], "b": ""}'"""
    whole = (
        """curl http://h:1/v2/models/iris/infer -d \\   '{"inputs": [{"name": "it\\u0027s", """
        """"datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}, """
        """{"name": "b", "datatype": "BYTES", "shape": [1], "data": [""]}]}'"""
    )
    assert " ".join(commands.lines(1_000)) == f"{short} {whole}"
    _, *narrow = commands.lines(56)
    assert max(map(len, narrow)) <= 56
    assert " ".join(" ".join(narrow).split()) == " ".join(whole.split())


async def test_a_running_batch_job_is_observed_although_it_serves_nothing() -> None:
    observation = Observation(running=True, revision=1, detail="running, 10 rows")

    class Service:
        async def observe_deployment(self, deployment_id: UUID) -> Observation:
            assert deployment_id == ID
            return observation

    service: Any = Service()
    session: Any = None
    running = deployment(deployment_target_config=BATCH_JOB, serving_revision=None)
    assert await status_commands._observe(session, service, running) is observation
    ended = running.model_copy(update={"state": "completed"})
    assert await status_commands._observe(session, service, ended) is None


def test_an_input_that_is_too_large_to_write_is_read_from_a_file() -> None:
    commands = examples(tensor("image", "FP32", [1, 3, 224, 224]))
    assert [*commands.lines(80)] == ["deployledger predict iris --input FILE"]


def test_mlflow_is_queried_with_the_type_that_it_insists_on() -> None:
    inputs = json.dumps([{"name": "owner's", "type": "string"}])
    model = ModelDescription.of_mlflow("iris", "1", None, {"signature": {"inputs": inputs}}, Path("/nowhere"))
    for width in (40, 1_000):
        short, *curl = ExampleCommands("iris", "http://h:1", model).lines(width)
        assert short == "deployledger predict iris --data '\"\"'"
        words = shlex.split("\n".join(curl).replace("\\\n", ""))
        assert words[:-1] == ["curl", "http://h:1/invocations", "-H", "content-type:application/json", "-d"]
        assert json.loads(words[-1]) == {"dataframe_split": {"columns": ["owner's"], "data": [[""]]}}


def test_a_deployment_that_serves_ends_with_how_to_ask_it_and_look_back() -> None:
    commands = examples(tensor("x", "INT64", [1]))
    shown = lines(outcome_lines(Overview(active(), FIRST, Clock(NOW, UTC)), commands), 90)
    assert shown[-6:] == [
        "Query it:",
        "  deployledger predict iris --data '0'",
        "  curl http://h:1/v2/models/iris/infer -d \\",
        """    '{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}]}'""",
        "  Inspect       deployledger status iris",
        "  History       deployledger history iris",
    ]
