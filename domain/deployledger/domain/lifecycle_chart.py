"""The lifecycle as a diagram and as a table, drawn from the machine itself."""

from deployledger.domain.lifecycle import DEADLINES, Lifecycle, State, Transition

_GUARD_NAMES = {
    ("is_batch_job", True): "batch job",
    ("is_serving", True): "an earlier revision serves",
    ("is_serving", False): "no earlier revision serves",
}


def mermaid(lifecycle: Lifecycle) -> str:
    """Return the lifecycle as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.REQUESTED}"]
    for transition in lifecycle.transitions:
        guard = _guard(transition)
        label = f"{transition.trigger} [{guard}]" if guard else transition.trigger
        lines.append(f"    {transition.source} --> {transition.dest}: {label}")
    lines.append(f"    {State.DELETED} --> [*]")
    return "\n".join(lines) + "\n"


def table(lifecycle: Lifecycle) -> list[dict[str, str]]:
    """Return one row a transition: trigger, from, to, and the condition, if there is one."""
    return [
        {"trigger": row.trigger, "from": row.source, "to": row.dest, "when": _guard(row)}
        for row in lifecycle.transitions
    ]


def markdown(lifecycle: Lifecycle) -> str:
    """Return the page of the documentation."""
    rows = "\n".join(
        f"| `{row['trigger']}` | {row['from']} | {row['to']} | {row['when']} |" for row in table(lifecycle)
    )
    deadlines = "\n".join(
        f"| {step} | {int(deadline.total_seconds()):,} s | `DEPLOYLEDGER_{step.upper()}_DEADLINE` |"
        for step, deadline in DEADLINES.items()
    )
    return f"""# The lifecycle of a deployment

This page is generated from the machine in `deployledger.domain.lifecycle`; a check keeps it true.
`deployledger lifecycle` prints the same diagram.

```mermaid
{mermaid(lifecycle)}```

## Transitions

| trigger | from | to | when |
|---|---|---|---|
{rows}

## Deadlines

A step that takes longer fails with the reason `deadline_exceeded`, and can be retried.

| step | deadline | setting (seconds) |
|---|---|---|
{deadlines}
"""


def _guard(transition: Transition) -> str:
    return ", ".join(_GUARD_NAMES[guard] for guard in transition.guards)
