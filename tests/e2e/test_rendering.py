"""Tables and lists on a terminal of 80 columns."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from rich.console import Console, RenderableType

from deployledger.adapters.cli import units
from deployledger.adapters.cli.audit_tables import problem_list, rule_difference_list
from deployledger.adapters.cli.deployment_card import deployment_card
from deployledger.adapters.cli.projection_tables import ReadModelTable
from deployledger.adapters.cli.timeline import change_line, difference, timeline
from deployledger.audit.replaying import Kind, ReplayProblem
from deployledger.audit.what_if import RuleDifference
from deployledger.domain.responses import (
    Change,
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentStatus,
    DeploymentStatusResponse,
    PastMoment,
)
from deployledger.projections.read_model_status import ReadModelStatus
from tests.domain.given import SERVICE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STREAM = "68a00851-7079-4dee-b164-49e23e26e1d7"


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(shown, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def entry(**fields: Any) -> DeploymentHistoryEntry:
    known: dict[str, Any] = {
        "version": 1,
        "position": 12,
        "recorded_at": NOW - timedelta(hours=3),
        "happened_at": None,
        "topic": "deployment.deletion_requested",
        "revision": 1,
        "duration": None,
        "actor": "ann",
        "attempt": 1,
        "correlation_id": None,
        "error": "",
        "data": {},
        "changes": [],
    }
    return DeploymentHistoryEntry.model_construct(**known | fields)


def test_an_event_has_its_age_and_beside_it_the_time_in_the_reader_s_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    heading, row = lines(timeline([entry()], units.Clock(NOW, berlin)), 60)
    assert heading.split() == ["AGE", "TIME", "(CET)", "EVENT"]
    assert row.split()[:2] == ["3h", "10:00:00"]
    assert row.endswith("Deletion requested by ann")
    _, row = lines(timeline([entry()], units.Clock(NOW, UTC, is_terminal=False)), 60)
    assert row.split()[:2] == ["3h", "2026-03-01T09:00:00Z"]


def test_a_long_event_goes_on_below_its_beginning() -> None:
    failure = {
        "step": "fetch",
        "reason": "model_not_found",
        "message": "No " + "model " * 30,
        "hint": "Look.",
    }
    failed = entry(topic="deployment.failed", data={"failure": failure}, duration=0.25, attempt=3)
    _, first, *more = lines(timeline([failed], units.Clock(NOW, UTC)), 60)
    assert "✗  Failed in fetch after 0.25 s (attempt" in first
    column = first.index("Failed")
    assert {len(line) - len(line.lstrip()) for line in more} == {column}
    assert more[-1].endswith("Look.")
    assert max(map(len, [first, *more])) <= 60


def test_an_event_that_could_not_be_applied_says_why() -> None:
    parked = entry(topic="acme.audited", duration=0.1, error="No field\nteam.")
    assert lines(timeline([parked], units.Clock(NOW, UTC)), 120)[-1].endswith(
        r"✗  acme.audited. This event could not be applied: No field\nteam."
    )
    late = lines(timeline([entry(happened_at=NOW - timedelta(days=1))], units.Clock(NOW, UTC)), 100)
    assert late[1].split()[:3] == ["1d", "2026-02-28", "12:00:00~"]
    assert late[-1].startswith("~ The clock was wrong")


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
    whole, _, row = lines(ReadModelTable([status]))
    assert whole.split() == ["NAME", "VERSION", "POSITION", "LAG", "ROWS", "PARKED", "REBUILT"]
    assert row.split() == ["deployment_timeline", "1", "12,345", "0", "12,345", "0", "-"]
    brief, _, row = lines(ReadModelTable([status]), 60)
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


def test_a_change_shows_no_value_that_there_was_not() -> None:
    failure = {"step": "run", "reason": "odd", "message": "no " * 150, "hint": "Check the disk."}
    changes = {
        "  replicas 1 → 2": ("deployment_target_config.replicas", 1, 2),
        "+ tags.team flowers": ("tags.team", None, "flowers"),
        "− tags.team flowers": ("tags.team", "flowers", None),
        '+ tags.empty ""': ("tags.empty", None, ""),
        '  tags.note "" → new': ("tags.note", "", "new"),
        "  cpu_request 500m → 1": ("resource_allocation.cpu_request", "500m", "1"),
        "  simulated false → true": ("simulated", False, True),
        r"+ tags.a\nb \u001b[2J": ("tags.a\nb", None, "\x1b[2J"),
        "+ tags.list [1, 2]": ("tags.list", None, [1, 2]),
        f"+ image sha256:{'ab' * 4}": ("image", None, f"sha256:{'ab' * 32}"),
    }
    for expected, (field, before, after) in changes.items():
        assert change_line(Change(field=field, before=before, after=after)).plain == expected
    assert change_line(Change(field="failure", after=failure)).plain.endswith("Check the disk.")


def test_a_difference_says_between_which_moments_it_is() -> None:
    then, now = (
        PastMoment(asked_for=it, position=5, recorded_at=NOW - timedelta(hours=1), revision=1)
        for it in ("position 5", "now")
    )
    found = DeploymentDifference(
        deployment_id=UUID(STREAM), deployment_name="iris", before=then, after=now, changes=[]
    )
    assert lines(difference(found, units.Clock(NOW, UTC)), 60) == [
        "iris: position 5 → now",
        "  position 5  last event 60m ago (11:00:00 UTC)",
        "  now         position 5, last event 60m ago (11:00:00 UTC)",
        "No difference.",
    ]


def test_what_a_replay_found_is_not_broken_within_words() -> None:
    message = f"Event 3 of stream {STREAM} does not decode: revision: Field required; name: Field required."
    found = lines(
        problem_list(
            [
                ReplayProblem(12, STREAM, 3, "deployment.update_requested", Kind.UNDECODABLE, message),
                ReplayProblem(20, "", 0, "", Kind.POSITION_GAP, "Position 20 is missing in the log."),
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
    difference = RuleDifference(
        6, STREAM, "iris", 2, "deployment.update_requested", "active", "update_requested", None, "No team."
    )
    assert lines(rule_difference_list([difference]))[1:] == [
        "       6  UpdateRequested    iris",
        "          ours:   active -> update_requested",
        "          theirs: refused: No team.",
    ]
