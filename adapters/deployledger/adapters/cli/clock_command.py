"""The command ``log correct-clock``: which recorded times are wrong, because the clock was."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli.options import SessionOptions

if TYPE_CHECKING:
    from deployledger.service.clock_corrector import ClockCorrection
    from deployledger.service.deployment_service import DeploymentService


def correct_clock(
    *,
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
    session: SessionOptions,
) -> None:
    """Record that the clock was ahead, once it is right again.

    While the clock is ahead, events are recorded at times in the future, and so are all events after them.
    None of them is changed: the correction is an event of its own, after which times follow the clock again.
    Set the clock first, and stop every process that still has the wrong one.

    Examples:
        deployledger log correct-clock
        deployledger log correct-clock --yes
    """
    session.reports_clock = True

    async def work(service: "DeploymentService") -> "ClockCorrection":
        return await service.correct_clock(withdraw=withdraw, dry_run=not yes)

    correction = session.run(work)
    now = _now(correction)
    with session.reporting():
        if session.is_json:
            session.print_json(correction)
            return
        if correction.wrong is None:
            session.say(
                "The clock needs no correction: the event log has no uncorrected times in the future, and it "
                f"is {now} now."
            )
        elif correction.withdraws is None:
            session.say(str(correction.wrong))
        else:
            session.say(
                f"The correction at position {correction.withdraws:,} is withdrawn, and the recorded times "
                "before it count again: the clock was behind."
            )
        if correction.position is not None:
            session.say(f"Recorded at position {correction.position:,}.")
    if correction.position is None and correction.wrong is not None:
        session.note(f"Nothing was recorded. If {now} is the right time, run the command again with --yes.")


def _now(correction: "ClockCorrection") -> str:
    from deployledger.domain.timestamps import rfc3339

    return rfc3339(correction.now)
