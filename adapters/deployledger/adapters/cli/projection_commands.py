"""The commands that are about read models: following, rebuilding and verifying them, and what is parked."""

import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.options import DeploymentOption, SessionOptions, WorkersOption
from deployledger.adapters.cli.reading import Reading, workers_for
from deployledger.adapters.cli.session import ExitCode, Session, end_at_once_on_ctrl_c
from deployledger.domain.logs import logger

if TYPE_CHECKING:
    from deployledger.projections.read_model_status import ReadModelStatus
    from deployledger.projections.read_models import ReadModels
    from deployledger.projections.rebuilding import Rebuilt
    from deployledger.projections.verifying import Verified
    from deployledger.service.deployment_service import DeploymentService

projections = Commands(name="projections", help="Rebuild, verify and follow the read models.")

_T = TypeVar("_T")

_LOGGER = logger("read_models")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", autocompletion=completion.projections, help="The projections."),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=completion.projections, help="The projection.")
]


@projections.command()
def status(*, session: SessionOptions) -> None:
    """Show the state of every read model, including other versions.

    Examples:
        deployledger projections status
    """
    statuses = session.work(lambda service: service.read_models.status())
    if session.is_json:
        session.print_json(
            [{**vars(status), "rebuild_events_per_second": _rate(status)} for status in statuses]
        )
        return
    from deployledger.adapters.cli.projection_tables import ReadModelTable

    session.show(ReadModelTable(statuses))
    _advise(session, statuses)


@projections.command("run")
def run_(names: Names = None, *, session: SessionOptions) -> None:
    """Keep read models up to date as events are added, until Ctrl-C or SIGTERM.

    Reads are current without it; with it they find nothing left to apply. Any number of processes may run
    it: one does the work, and another takes over when it ends. Without names, it follows all projections.

    Examples:
        deployledger projections run
        deployledger projections run deployment_list
    """
    signals: list[int] = []
    stopping = threading.Event()

    def follow(service: "DeploymentService") -> None:
        models = service.read_models

        def stop(number: int, _: object) -> None:
            signals.append(number)
            stopping.set()
            models.patience.end()
            signal.signal(number, signal.SIG_DFL)  # the second one ends it at once, which does no harm either

        named = [models.projection(name) for name in names or models.projections]
        together = [
            projection.name
            for group in models.groups
            if not set(group).isdisjoint(named)
            for projection in group
        ]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        session.note(f"Following {', '.join(together)}. Ctrl-C ends it.")
        models.follow(
            stopping, names=together, on_problem=lambda error: models.patience.warn(_LOGGER, str(error))
        )

    session.work(follow)
    session.exit_if(signal.SIGINT in signals, ExitCode.INTERRUPTED)


@projections.command()
def rebuild(
    names: Names = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Rebuild all projections.")] = False,
    workers: WorkersOption = None,
    deployment: DeploymentOption = None,
    session: SessionOptions,
) -> None:
    """Rebuild read models from the log; readers switch when they are complete.

    Readers and writers continue meanwhile. If the rebuild is interrupted, readers keep the old rows, and the
    next rebuild starts clean. With --deployment only the rows of that deployment are rebuilt, in place.

    Examples:
        deployledger projections rebuild --all
        deployledger projections rebuild deployment_list
        deployledger projections rebuild --deployment iris
    """
    if deployment is not None:
        _refold(session, names, all_, deployment)
        return

    def work(service: "DeploymentService") -> "tuple[list[Rebuilt], list[ReadModelStatus]]":
        models = service.read_models
        wanted = _chosen(models, names, all_)
        with Reading(session, "Rebuilding") as reading:
            rebuilt = models.rebuild(wanted, workers=workers_for(models.log, workers), progress=reading)
        return rebuilt, _with_parked(models, wanted)

    try:
        rebuilt, parked = session.work(work)
    except KeyboardInterrupt:
        session.note("Interrupted. The read models in use are unchanged; the next rebuild starts afresh.")
        raise
    with session.reporting():
        print_rebuilt(session, rebuilt)
    if not session.is_json:
        _advise(session, parked)


def print_rebuilt(session: Session, rebuilt: "Sequence[Rebuilt]") -> None:
    """Print what was rebuilt."""
    if session.is_json:
        session.print_json(rebuilt)
        return
    for report in rebuilt:
        session.say(
            f"{report.name}: rebuilt from {report.events:,} events in {units.duration(report.seconds)} "
            f"({report.events / max(report.seconds, 1e-9):,.0f}/s); it is at position {report.position:,}."
        )


@projections.command()
def verify(
    names: Names = None,
    *,
    sample: Annotated[
        int | None,
        typer.Option(help="Compare only about this many rows, chosen at random.", show_default="all rows"),
    ] = None,
    workers: WorkersOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild rows that differ, then verify those projections again.")
    ] = False,
    session: SessionOptions,
) -> None:
    """Verify read models against the log, row by row, while they are in use.

    Exit code 1 if there are differences; parked events are reported but do not count as differences. With
    --repair, the exit code is that of a second verification of all rows of the projections that differed,
    also after a sample. Without names, all projections are verified.

    Examples:
        deployledger projections verify
        deployledger projections verify deployment_list --sample 1000
        deployledger projections verify --repair
    """

    def work(
        service: "DeploymentService",
    ) -> "tuple[list[Verified], dict[str, Verified], list[ReadModelStatus]]":
        models = service.read_models
        wanted, number = names or list(models.projections), workers_for(models.log, workers)
        with Reading(session, "Verifying") as reading:
            verified = models.verify(wanted, sample=sample, workers=number, progress=reading)
        parked = _with_parked(models, wanted)
        wrong = [report for report in verified if report.differences]
        if not repair or not wrong:
            return verified, {}, parked
        for report in wrong:
            models.repair(report)
        with Reading(session, "Verifying again") as reading:
            again = models.verify([report.name for report in wrong], workers=number, progress=reading)
        return verified, {report.name: report for report in again}, parked

    verified, again, parked = session.work(work)
    if session.is_json:
        session.print_json([{**vars(report), "after_repair": again.get(report.name)} for report in verified])
    else:
        unapplied = {status.name: status.parked for status in parked}
        for report in verified:
            _print_verified(session, report, unapplied.get(report.name, 0))
        for report in again.values():
            session.say(f"{report.name} after the repair:")
            _print_verified(session, report, unapplied.get(report.name, 0))
        _advise(session, parked)
    session.exit_if(any(again.get(report.name, report).differences for report in verified))


@projections.command()
def remove(
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version.")],
    *,
    session: SessionOptions,
) -> None:
    """Remove the rows of a read model that is no longer used.

    The log is not touched: software that reads that version rebuilds it.

    Examples:
        deployledger projections remove deployment_list 1
    """

    def work(service: "DeploymentService") -> None:
        from deployledger.domain.exceptions import ConflictError, ResourceNotFoundError

        models = service.read_models
        current = models.projections.get(name)
        if current is not None and current.version == version:
            raise ConflictError(
                f"Version {version} of projection {name} is the one that this software reads.",
                hint=f"`deployledger projections rebuild {name}` rebuilds it.",
            )
        if (name, version) not in {(status.name, status.version) for status in models.status()}:
            raise ResourceNotFoundError("Read model", f"{name} version {version}")
        models.remove(name, version)

    session.work(work)
    with session.reporting():
        if session.is_json:
            session.print_json({"name": name, "version": version, "removed": True})
        else:
            session.say(f"{name} version {version} is removed.")


def of_deployment(
    session: Session, work: "Callable[[ReadModels, str | None], _T]", deployment: str | None
) -> _T:
    """Return what work on the read models returned, given the id of a deployment if one is meant."""

    async def question(service: "DeploymentService") -> _T:
        key = None if deployment is None else await _id_of(service, deployment)
        end_at_once_on_ctrl_c()
        return work(service.read_models, key)

    return session.run(question)


async def _id_of(service: "DeploymentService", reference: str) -> str:
    from uuid import UUID

    from deployledger.domain.exceptions import ReadModelError

    try:
        return str((await service.find_deployment(reference)).deployment_id)
    except ReadModelError:  # its row cannot be shown: an id is enough to mend that
        try:
            return str(UUID(reference))
        except ValueError:
            pass
        raise


def _chosen(models: "ReadModels", names: Sequence[str] | None, all_: bool) -> list[str]:
    from deployledger.domain.exceptions import ConfigurationError

    if bool(names) == all_:
        raise ConfigurationError(
            "Names and --all contradict each other." if names else "No projection was named.",
            hint=f"Name some of {', '.join(sorted(models.projections))}, or add --all.",
        )
    return list(names or models.projections)


def _refold(session: Session, names: Sequence[str] | None, all_: bool, deployment: str) -> None:
    def work(models: "ReadModels", key: str | None) -> list[dict[str, Any]]:
        by_stream = [projection.name for projection in models.projections.values() if projection.is_by_stream]
        wanted = _chosen(models, names, all_) if names else by_stream
        for name in wanted:
            models.projection(name)
        for name in wanted:
            models.refold(name, [key] if key else [])
        return [{"name": name, "key": key} for name in wanted]

    rebuilt = of_deployment(session, work, deployment)
    with session.reporting():
        if session.is_json:
            session.print_json(rebuilt)
            return
        for row in rebuilt:
            session.say(f"{row['name']}: the row of {row['key']} was rebuilt.")


def _with_parked(models: "ReadModels", names: "Sequence[str]") -> "list[ReadModelStatus]":
    return [
        status for status in models.status() if status.name in names and status.is_current and status.parked
    ]


def _advise(session: Session, statuses: "Sequence[ReadModelStatus]") -> None:
    """Note what there is to do or to wait for, if there is something."""
    for status in statuses:
        name = status.name
        if status.parked and status.is_current:
            session.note(
                f"{name}: {events_are(status.parked)} parked. `deployledger projections parked list {name}` "
                "shows why; once the cause is fixed, "
                f"`deployledger projections parked retry {name}` applies them."
            )
        elif status.is_being_rebuilt:
            session.note(f"{name} is being rebuilt or verified.")
        elif status.follower:
            session.note(f"{name} is followed by {status.follower}.")
        elif not status.is_current:
            session.note(
                f"{name} version {status.version} is not used by this software. If nothing else uses it, "
                f"`deployledger projections remove {name} {status.version}` removes its rows."
            )


def events_are(number: int) -> str:
    """Return a number of events as the subject of a sentence."""
    return "1 event is" if number == 1 else f"{number:,} events are"


def _rate(status: "ReadModelStatus") -> float | None:
    if not status.rebuild_seconds or status.rebuild_events is None:
        return None
    return round(status.rebuild_events / status.rebuild_seconds, 1)


def _print_verified(session: Session, verified: "Verified", parked: int) -> None:
    at = f"at position {verified.position:,} ({units.duration(verified.seconds)})"
    rows = units.number(verified.rows, "row")
    if not verified.differences:
        equal = "equals" if verified.rows == 1 else "equal"
        but = f", but {events_are(parked)} parked," if parked else ""
        session.say(f"{verified.name}: {rows} {equal} the log{but} {at}.")
        return
    from deployledger.adapters.cli.projection_tables import differences_table

    session.say(f"{verified.name}: {units.number(len(verified.differences), 'difference')} in {rows} {at}.")
    session.show(differences_table(verified.differences))
