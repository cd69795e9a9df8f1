"""Tables and lists on a terminal of 80 columns."""

from datetime import UTC, datetime
from io import StringIO
from uuid import UUID

from rich.console import Console, RenderableType

from deployledger.adapters.cli.rendering import (
    deployment_card,
    deployments_table,
    problem_list,
    read_models_table,
    rule_difference_list,
)
from deployledger.adapters.cli.timeline import changes_table, difference_title, timeline
from deployledger.domain.schemas import (
    Change,
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentStatus,
    DeploymentStatusResponse,
    PastMoment,
)
from deployledger.projections.read_models import ReadModelStatus
from deployledger.projections.replaying import Kind, Problem
from deployledger.projections.what_if import Difference
from tests.domain.given import SERVICE

STREAM = "68a00851-7079-4dee-b164-49e23e26e1d7"


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(shown, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_the_end_of_a_model_is_shown() -> None:
    now = datetime.now(UTC)
    deployment = DeploymentStatusResponse.model_construct(
        deployment_id=UUID(STREAM),
        deployment_name="iris",
        status="updating",
        revision=2,
        serving_revision=1,
        endpoint_url="http://127.0.0.1:38881",
        created_at=now,
        model_uri="/home/ann/models/iris-v1.onnx",
    )
    *_, row = lines(deployments_table([deployment], now))
    expected = " iris  updating  2 (1 serves)  http://127.0.0.1:38881  0s   68a00851  …-v1.onnx"
    assert row == expected
    *_, row = lines(deployments_table([deployment], now), 120)
    assert row.endswith("  /home/ann/models/iris-v1.onnx")
    heading, _, row = lines(deployments_table([deployment], now), 69)
    assert heading.split() == ["NAME", "STATUS", "REV", "ENDPOINT", "AGE", "ID"]
    assert row.endswith("  http://127.0.0.1:38881  0s   68a00851")
    heading, _, row = lines(deployments_table([deployment], now), 60)
    assert heading.split() == ["NAME", "STATUS", "REV", "AGE", "ID"], "no id and no name is cut"
    assert row == " iris  updating  2 (1 serves)  0s   68a00851"


def test_who_acted_is_below_a_line_of_the_history_that_is_full() -> None:
    entry = DeploymentHistoryEntry.model_construct(
        version=1,
        position=12,
        recorded_at=datetime(2026, 3, 1, tzinfo=UTC),
        happened_at=None,
        event="DeploymentRequested",
        revision=1,
        duration=None,
        actor="ann",
        attempt=1,
        cause=None,
        correlation_id=None,
        error=None,
        data={},
        changes=[],
    )
    heading, who, _, row, actor = lines(timeline([entry]), 60)
    assert (heading.split()[-1], who, actor) == ("TOOK", "      ACTOR", "      ann")
    assert "DeploymentRequested" in row
    assert lines(timeline([entry]), 80)[0].endswith("  ACTOR")


def test_a_name_of_a_read_model_is_never_cut() -> None:
    status = ReadModelStatus(
        name="deployment_timeline",
        version=1,
        position=12_345,
        lag_events=0,
        lag_seconds=0,
        rows=12_345,
        parked=0,
        rebuilt_at=None,
        rebuild_seconds=None,
        rebuild_events=None,
        follower=None,
        is_current=True,
        is_being_rebuilt=False,
    )
    whole, _, row = lines(read_models_table([status]))
    assert whole.split() == ["NAME", "VERSION", "POSITION", "LAG", "ROWS", "PARKED", "REBUILT"]
    assert row.split() == ["deployment_timeline", "1", "12,345", "0", "12,345", "0", "-"]
    brief, _, row = lines(read_models_table([status]), 60)
    assert brief.split() == ["NAME", "POSITION", "LAG", "PARKED", "REBUILT"]
    assert row.split() == ["deployment_timeline", "12,345", "0", "0", "-"]


def test_a_card_breaks_no_digest_and_pads_no_line() -> None:
    now = datetime.now(UTC)
    digest = f"sha256:{'0123456789abcdef' * 4}"
    card = deployment_card(
        DeploymentStatusResponse(
            deployment_id=UUID(STREAM),
            deployment_name="iris",
            model_uri="models:/iris/1",
            status=DeploymentStatus.FAILED,
            message="Step provision failed: " + "the server of the replica ended " * 3,
            created_at=now,
            updated_at=now,
            state="failed",
            version=2,
            deployment_target_config=SERVICE,
            artifact_digest=digest,
        )
    )
    found = lines(card)
    assert ["Artifact", digest] in [line.split() for line in found]
    assert max(len(line) for line in found if digest not in line) <= 80
    assert sum(line.startswith(" " * 10) for line in found) == 1, "the message goes on below"


def test_a_failure_is_told_to_its_end_below_the_table() -> None:
    failure = {"step": "run", "reason": "odd", "message": "no " * 150, "hint": "Check the disk."}
    changes = [
        Change(field="revision", before=1, after=2),
        Change(field="failure", before=None, after=failure),
    ]
    found = lines(changes_table(changes))
    assert found[2].split() == ["revision", "1", "2"]
    assert found[3:5] == ["failure", "      before: -"]
    assert " ".join(found).endswith("Check the disk.")
    assert max(map(len, found)) <= 80
    assert lines(changes_table(changes[1:]))[0] == "failure"


def test_the_moments_of_a_difference_are_a_line_each() -> None:
    then, now = (
        PastMoment(asked_for=it, position=5, recorded_at=datetime.now(UTC), revision=1)
        for it in ("revision 1", "now")
    )
    difference = DeploymentDifference(
        deployment_id=UUID(STREAM), deployment_name="iris", before=then, after=now, changes=[]
    )
    first, second = difference_title(difference).split("\n")
    assert first.startswith("iris: revision 1 (")
    assert second.startswith("   -> now (")
    assert max(len(first), len(second)) <= 80


def test_what_a_replay_found_is_not_broken_within_words() -> None:
    message = f"Event 3 of stream {STREAM} does not decode: revision: Field required; name: Field required."
    found = lines(
        problem_list(
            [
                Problem(12, STREAM, 3, "deployment.update_requested", Kind.UNDECODABLE, message),
                Problem(20, "", 0, "", Kind.POSITION_GAP, "Position 20 is missing in the log."),
            ]
        )
    )
    assert found[1:3] == [
        "      12  UpdateRequested    undecodable",
        f"          stream {STREAM}, version 3",
    ]
    assert " ".join(line.strip() for line in found[3:-2]) == message
    assert found[-2:] == [
        "      20  -                  position_gap",
        "          Position 20 is missing in the log.",
    ]
    difference = Difference(
        6, STREAM, "iris", 2, "deployment.update_requested", "active", "update_requested", None, "No team."
    )
    assert lines(rule_difference_list([difference]))[1:] == [
        "       6  UpdateRequested    iris",
        "          ours:   active -> update_requested",
        "          theirs: refused: No team.",
    ]
