"""The command ``replay``: the whole log through the domain again."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.options import DeploymentOption, SessionOptions, WorkersOption
from deployledger.adapters.cli.reading import Reading, workers_for
from deployledger.adapters.cli.session import Session, end_at_once_on_ctrl_c
from deployledger.adapters.cli.typed_times import when

if TYPE_CHECKING:
    from deployledger.audit.replaying import Replayed
    from deployledger.projections.rebuilding import Rebuilt
    from deployledger.service.deployment_service import DeploymentService

_MOST_SHOWN = 50


def replay(
    *,
    deployment: DeploymentOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            autocompletion=completion.revisions,
            help="Replay up to this point: a time with its zone (2026-03-03T12:00Z), an age (2h), a position "
            "of the log (1234) or, with --deployment, a revision (r2).",
            show_default="the end of the log",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", help="Compare with another lifecycle or policy, which is imported and run."
        ),
    ] = None,
    into: Annotated[
        str | None, typer.Option(metavar="URL", help="Rebuild all read models in this database instead.")
    ] = None,
    workers: WorkersOption = None,
    session: SessionOptions,
) -> None:
    """Replay the log through the domain and report events that could not have happened.

    Prints one digest of the resulting states, which is the same on every machine and database. Exit code 1 if
    an event could not have happened.

    With --against, lists what would have differed under another rule. With --into, rebuilds the read models
    in another database.

    Examples:
        deployledger replay
        deployledger replay --deployment iris --until r1
        deployledger replay --against rules:LIFECYCLE
    """
    until = when(until, "--until")
    if into is not None:
        _rebuild_into(session, into, workers, [deployment, until, against])
    else:
        _replay(session, deployment, until, against, workers)


def _replay(
    session: Session, deployment: str | None, until: str | None, against: str | None, workers: int | None
) -> None:
    if against is not None:
        sys.path.insert(0, str(Path.cwd()))  # where users expect their modules to be found

    async def question(service: "DeploymentService") -> "Replayed":
        from deployledger.audit.replaying import replay

        stream = await service.find_deployment_id(deployment) if deployment is not None else None
        position = None if until is None else await service.position_at(until, deployment_id=stream)
        end_at_once_on_ctrl_c()
        # What a policy prints is no answer of ours.
        await session.note_if_empty(service.event_log)
        with Reading(session, "Replaying") as reading, redirect_stdout(sys.stderr):
            return replay(
                service.event_log,
                until=position,
                deployment_id=stream,
                workers=workers_for(service.event_log, workers),
                against=against,
                progress=reading,
            )

    replayed = session.run(question)
    if session.is_json:
        session.print_json(replayed)
    else:
        _print(session, replayed, against)
    session.exit_if(bool(replayed.problems))


def _print(session: Session, replayed: "Replayed", against: str | None) -> None:
    from deployledger.adapters.cli.audit_tables import problem_list, rule_difference_list

    rate = replayed.events / max(replayed.seconds, 1e-9)
    session.say(
        f"Replayed {units.number(replayed.events, 'event')} of {units.number(replayed.streams, 'stream')} "
        f"up to position {replayed.until:,} in {units.duration(replayed.seconds)} ({rate:,.0f}/s)."
    )
    if replayed.digest is not None:
        session.say(f"Digest of the states: {replayed.digest}")
    else:
        number = len(replayed.differences)
        session.say(f"Under {against}, {units.number(number, 'event')} would have gone differently.")
        if replayed.differences:
            session.show(rule_difference_list(replayed.differences[:_MOST_SHOWN]))
            _say_more(session, number)
    if not replayed.problems:
        session.say("Every history is legal under the lifecycle.")
        return
    session.say(
        f"{units.number(len(replayed.problems), 'problem')}; {units.number(replayed.not_replayed, 'event')} "
        "with or after them not replayed."
    )
    session.show(problem_list(replayed.problems[:_MOST_SHOWN]))
    _say_more(session, len(replayed.problems))


def _say_more(session: Session, number: int) -> None:
    if number > _MOST_SHOWN:
        session.say(f"And {number - _MOST_SHOWN:,} more; --output json has them all.")


def _rebuild_into(session: Session, url: str, workers: int | None, others: list[str | None]) -> None:
    from deployledger.adapters.cli.projection_commands import print_rebuilt

    def work(service: "DeploymentService") -> "list[Rebuilt]":
        from deployledger.domain.exceptions import ConfigurationError

        if any(option is not None for option in others):
            raise ConfigurationError(
                "--into rebuilds all read models from the whole log; it cannot be combined with "
                "--deployment, --until or --against."
            )
        models = service.read_models.elsewhere(url)
        try:
            with Reading(session, "Rebuilding") as reading:
                return models.rebuild(
                    list(models.projections), workers=workers_for(models.log, workers), progress=reading
                )
        finally:
            models.store.close()

    rebuilt = session.work(work)
    with session.reporting():
        print_rebuilt(session, rebuilt)
