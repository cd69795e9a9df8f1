"""Tables and lists on a terminal of 80 columns."""

from datetime import UTC, datetime
from io import StringIO
from uuid import UUID

from rich.console import Console, RenderableType

from deployledger.adapters.cli.rendering import deployments_table, problem_list, rule_difference_list
from deployledger.domain.schemas import DeploymentStatusResponse
from deployledger.projections.replaying import Kind, Problem
from deployledger.projections.what_if import Difference

STREAM = "68a00851-7079-4dee-b164-49e23e26e1d7"


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(shown)
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
