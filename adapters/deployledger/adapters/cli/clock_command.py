"""The command ``log correct-clock``: which recorded times are wrong, because the clock was."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli.session import (
    Interruptible,
    Output,
    OutputOption,
    VerboseOption,
    as_json,
    escaped,
    session_for,
)

if TYPE_CHECKING:
    from deployledger.service.clock import ClockCorrection
    from deployledger.service.deployment_service import DeploymentService


def correct_clock(
    yes: Annotated[
        bool, typer.Option("--yes", help="Record the correction; without this option it is only shown.")
    ] = False,
    withdraw: Annotated[
        bool,
        typer.Option(
            "--withdraw",
            help="Withdraw the last correction, because the clock was behind when it was recorded.",
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Record that the clock was ahead, once it is right again.

    While the clock is ahead, events are recorded at times in the future, and so are all events after them.
    None of them is changed: the correction is an event of its own, after which times follow the clock again.
    Set the clock first, and stop every process that still has the wrong one.

    Examples:
        deployledger log correct-clock
        deployledger log correct-clock --yes
    """
    session = session_for(output, verbose)
    session.reports_clock = True

    async def work(service: "DeploymentService") -> "ClockCorrection":
        return await service.correct_clock(withdraw=withdraw, dry_run=not yes)

    with Interruptible():
        done = session.run(work)
    with session.reporting():
        if session.is_json:
            session.print_json(as_json(done))
            return
        session.stdout.print(
            f"The clock needs no correction: the event log has no uncorrected times in the future, and it is "
            f"{escaped(_now(done))} now."
            if done.wrong is None
            else escaped(done.wrong)
            if done.withdraws is None
            else f"The correction at position {done.withdraws:,} is withdrawn, and the recorded times "
            "before it count again: the clock was behind.",
            highlight=False,
            soft_wrap=True,
        )
        if done.position is not None:
            session.stdout.print(f"Recorded at position {done.position:,}.", highlight=False)
    if done.position is None and done.wrong is not None:
        session.stderr.print(
            f"Nothing was recorded. If {escaped(_now(done))} is the right time, run the command again "
            "with --yes.",
            highlight=False,
            soft_wrap=True,
        )


def _now(correction: "ClockCorrection") -> str:
    from deployledger.domain.timestamps import rfc3339

    return rfc3339(correction.now)
