"""The diagram and the table say what the machine says."""

from deployledger.domain.lifecycle import DEADLINES, LIFECYCLE, State
from deployledger.domain.lifecycle_chart import markdown, mermaid, table


def test_the_diagram_has_an_arrow_for_each_transition_start_and_end() -> None:
    arrows = [line.strip() for line in mermaid(LIFECYCLE).splitlines() if "-->" in line]
    assert len(arrows) == len(LIFECYCLE.transitions) + 2
    assert "[*] --> requested" in arrows
    assert "deleted --> [*]" in arrows
    assert "packaged --> active: provisioned" in arrows
    assert "requested --> active: cancel_update [an earlier revision serves]" in arrows


def test_the_table_names_each_condition() -> None:
    rows = table(LIFECYCLE)
    assert len(rows) == len(LIFECYCLE.transitions)
    assert {"trigger": "fail", "from": "active", "to": "failed", "when": "batch job"} in rows
    assert {row["when"] for row in rows} == {
        "",
        "batch job",
        "an earlier revision serves",
        "no earlier revision serves",
    }


def test_the_page_names_every_state_and_deadline() -> None:
    page = markdown(LIFECYCLE)
    assert all(state in page for state in State)
    for step, deadline in DEADLINES.items():
        assert f"| {step} | {int(deadline.total_seconds()):,} s |" in page
