"""The commands that are about read models: following, rebuilding and verifying them, and what is parked."""

import json
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.reading import Reading, WorkersOption, workers_for
from deployledger.adapters.cli.session import (
    DeploymentOption,
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    Session,
    VerboseOption,
    end_at_once_on_ctrl_c,
    escaped,
    session_for,
)
from deployledger.domain.logs import logger

if TYPE_CHECKING:
    from deployledger.domain.event_log import RawEvent
    from deployledger.projections.read_models import ReadModels, ReadModelStatus
    from deployledger.projections.reports import Rebuilt, Verified
    from deployledger.projections.store import ParkedEvent
    from deployledger.service.deployment_service import DeploymentService

projections = Commands(name="projections", help="Rebuild, verify and follow the read models.")
parked = Commands(name="parked", help="Inspect and retry events that could not be applied.")
projections.add_typer(parked)

_T = TypeVar("_T")

_ALL = 1 << 31
LOGGER = logger("read_models")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", autocompletion=completion.projections, help="The projections.", show_default=False
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=completion.projections, help="The projection.", show_default=False
    ),
]


@projections.command()
def status(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Show the state of every read model, including other versions.

    Examples:
        deployledger projections status
    """
    session = session_for(output, verbose)
    found = _do(session, lambda models, _: models.status())
    if session.is_json:
        _print_json(session, [{**vars(it), "rebuild_events_per_second": _rate(it)} for it in found])
        return
    from deployledger.adapters.cli.rendering import read_models_table

    session.show(read_models_table(found))
    for it in found:
        _advise(session, it)


@projections.command("run")
def run_(names: Names = None, output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Keep read models up to date as events are added, until Ctrl-C or SIGTERM.

    Reads are current without it; with it they find nothing left to apply. Any number of processes may run
    it: one does the work, and another takes over when it ends. Without names it is all projections.

    Examples:
        deployledger projections run
        deployledger projections run deployment_list
    """
    session = session_for(output, verbose)
    signals: list[int] = []
    stopping = threading.Event()

    def follow(models: "ReadModels", _: str | None) -> None:
        def stop(number: int, _: object) -> None:
            signals.append(number)
            stopping.set()
            models.patience.end()
            signal.signal(number, signal.SIG_DFL)  # the second one ends it at once, which does no harm either

        named = [models.projection(name) for name in names or models.projections]
        together = [it.name for group in models.groups if not set(group).isdisjoint(named) for it in group]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        session.stderr.print(f"Following {', '.join(together)}. Ctrl-C ends it.", highlight=False)
        models.follow(
            stopping, names=together, on_problem=lambda error: models.patience.warn(LOGGER, str(error))
        )

    with Interruptible():
        _do(session, follow)
    if signal.SIGINT in signals:
        raise SystemExit(128 + signal.SIGINT)


@projections.command()
def rebuild(
    names: Names = None,
    all_: Annotated[bool, typer.Option("--all", help="Rebuild all projections.")] = False,
    workers: WorkersOption = None,
    deployment: DeploymentOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Rebuild read models from the log; readers switch when they are complete.

    Readers and writers continue meanwhile. If the rebuild is interrupted, readers keep the old rows, and the
    next rebuild starts clean. With --deployment only the rows of that deployment are rebuilt, in place.

    Examples:
        deployledger projections rebuild --all
        deployledger projections rebuild deployment_list
        deployledger projections rebuild --deployment iris
    """
    session = session_for(output, verbose)
    if deployment is not None:
        _refold(session, names, all_, deployment)
        return

    def work(models: "ReadModels", _: str | None) -> "tuple[list[Rebuilt], list[ReadModelStatus]]":
        wanted = _chosen(models, names, all_)
        with Reading(session, "Rebuilding") as reading:
            done = models.rebuild(wanted, workers=workers_for(models.log, workers), progress=reading)
        return done, _with_parked(models, wanted)

    try:
        done, parked = _do(session, work)
    except KeyboardInterrupt:
        session.stderr.print(
            "Interrupted. What is not rebuilt is read as before; the next rebuild starts clean.",
            highlight=False,
        )
        raise SystemExit(128 + signal.SIGINT) from None
    with session.reporting():
        print_rebuilt(session, done)
    if not session.is_json:
        for status in parked:
            _advise(session, status)


def print_rebuilt(session: Session, done: "Sequence[Rebuilt]") -> None:
    """Print what was rebuilt."""
    if session.is_json:
        _print_json(session, [vars(it) for it in done])
        return
    for it in done:
        session.stdout.print(
            f"{it.name}: rebuilt from {it.events:,} events in {units.duration(it.seconds)} "
            f"({it.events / max(it.seconds, 1e-9):,.0f}/s); it is at position {it.position:,}.",
            highlight=False,
        )


@projections.command()
def verify(
    names: Names = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Compare only about this many rows, chosen at random.", show_default="all rows"),
    ] = None,
    workers: WorkersOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild rows that differ, then verify those projections again.")
    ] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Verify read models against the log, row by row, while they are in use.

    Exit code 1 if there are differences; parked events are reported but do not count as differences. With
    --repair, the exit code is that of a second verification of all rows of the projections that differed,
    also after a sample. Without names it is all projections.

    Examples:
        deployledger projections verify
        deployledger projections verify deployment_list --sample 1000
        deployledger projections verify --repair
    """
    session = session_for(output, verbose)

    parked: list[ReadModelStatus] = []

    def work(models: "ReadModels", _: str | None) -> "tuple[list[Verified], dict[str, Verified]]":
        wanted, number = names or list(models.projections), workers_for(models.log, workers)
        with Reading(session, "Verifying") as reading:
            found = models.verify(wanted, sample=sample, workers=number, progress=reading)
        parked.extend(_with_parked(models, wanted))
        wrong = [it for it in found if it.differences]
        if not repair or not wrong:
            return found, {}
        for it in wrong:
            models.repair(it)
        with Reading(session, "Verifying again") as reading:
            again = models.verify([it.name for it in wrong], workers=number, progress=reading)
        return found, {it.name: it for it in again}

    with Interruptible():
        found, again = _do(session, work)
    if session.is_json:
        _print_json(
            session,
            [
                {**_verified(it), "after_repair": _verified(again[it.name]) if it.name in again else None}
                for it in found
            ],
        )
    else:
        unapplied = {status.name: status.parked for status in parked}
        for it in found:
            _print_verified(session, it, unapplied.get(it.name, 0))
        for it in again.values():
            session.stdout.print(f"{it.name} after the repair:", highlight=False)
            _print_verified(session, it, unapplied.get(it.name, 0))
        for status in parked:
            _advise(session, status)
    if any(again.get(it.name, it).differences for it in found):
        raise SystemExit(int(ExitCode.FAILED))


@projections.command()
def remove(
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version.", show_default=False)],
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Remove the rows of a read model that is no longer used.

    The log is not touched: software that reads that version rebuilds it.

    Examples:
        deployledger projections remove deployment_list 1
    """
    session = session_for(output, verbose)

    def work(models: "ReadModels", _: str | None) -> None:
        from deployledger.domain.exceptions import ConflictError, ResourceNotFoundError

        current = models.projections.get(name)
        if current is not None and current.version == version:
            raise ConflictError(
                f"Version {version} of projection {name} is the one that this software reads.",
                hint=f"`deployledger projections rebuild {name}` makes it anew.",
            )
        if (name, version) not in {(it.name, it.version) for it in models.status()}:
            raise ResourceNotFoundError("Read model", f"{name} version {version}")
        models.remove(name, version)

    _do(session, work)
    with session.reporting():
        if session.is_json:
            _print_json(session, {"name": name, "version": version, "removed": True})
        else:
            session.stdout.print(f"{escaped(name)} version {version} is removed.", highlight=False)


# Parked events ------------------------------------------------------------------------------------------


@parked.command("list")
def list_parked(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.projections,
            help="The projection.",
            show_default="all of them",
        ),
    ] = None,
    deployment: DeploymentOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """List parked events by row: how many, which, and why the first could not be applied.

    The later events of a row are parked with it. Wide and JSON output have every event.

    Examples:
        deployledger projections parked list
        deployledger projections parked list deployment_list
    """
    session = session_for(output, verbose)

    def work(models: "ReadModels", key: str | None) -> "list[tuple[str, ParkedEvent]]":
        found = _parked(models, name)
        return [it for it in found if key is None or it[1].stream_id == key]

    found = _do(session, work, deployment)
    if session.is_json:
        _print_json(session, [{"projection": projection, **it._asdict()} for projection, it in found])
    elif found:
        from deployledger.adapters.cli.rendering import parked_rows_table, parked_table

        session.show(parked_table(found) if session.is_wide else parked_rows_table(found))
    else:
        session.stderr.print("Nothing is parked.")


@parked.command()
def show(
    position: Annotated[
        int, typer.Argument(metavar="POSITION", help="The event's position in the log.", show_default=False)
    ],
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Show a parked event as it is stored, and why it is parked.

    Examples:
        deployledger projections parked show 1234
    """
    session = session_for(output, verbose)

    def work(models: "ReadModels", _: str | None) -> "tuple[RawEvent, list[tuple[str, ParkedEvent]]]":
        from deployledger.domain.exceptions import ResourceNotFoundError

        found = [it for it in _parked(models) if it[1].position == position]
        if not found:
            raise ResourceNotFoundError("Parked event at position", position)
        return models.log.read_raw(after=position - 1, limit=1)[0], found

    raw, found = _do(session, work)
    try:
        state: Any = json.loads(raw.state)
        shown = json.dumps(state, indent=2, ensure_ascii=False)
    except ValueError:
        state = raw.state.decode(errors="backslashreplace")
        shown = repr(raw.state)
    if session.is_json:
        reasons = [
            {"projection": name, "key": it.key, "error": it.error, "parked_at": it.parked_at}
            for name, it in found
        ]
        _print_json(session, {**raw._asdict(), "state": state, "parked": reasons})
        return
    from deployledger.adapters.cli.rendering import parked_card

    session.show(parked_card(raw, found))
    session.print_lines(shown)


@parked.command()
def retry(
    name: Name,
    deployment: DeploymentOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Apply parked events again; exit code 1 if some stay parked.

    Examples:
        deployledger projections parked retry deployment_list
    """
    session = session_for(output, verbose)

    def work(models: "ReadModels", key: str | None) -> int:
        from deployledger.domain.exceptions import ConfigurationError

        if key is not None and not models.projection(name).is_by_stream:
            raise ConfigurationError(
                f"Projection {name} makes its keys itself: one deployment's events are not tried alone.",
                hint=f"Try it whole: `deployledger projections parked retry {name}`.",
            )
        return models.retry(name, key)

    with Interruptible():
        left = _do(session, work, deployment)
    with session.reporting(ExitCode.FAILED if left else ExitCode.DONE):
        if session.is_json:
            _print_json(session, {"projection": name, "parked": left})
        elif left:
            session.stdout.print(f"{escaped(name)}: {_events(left)} still parked.", highlight=False)
        else:
            session.stdout.print(f"{escaped(name)}: nothing is parked any more.", highlight=False)


# What the commands share --------------------------------------------------------------------------------


def _do(
    session: Session, work: "Callable[[ReadModels, str | None], _T]", deployment: str | None = None
) -> _T:
    """Do work on the read models, with the id of a deployment if one is meant."""

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
            "Names and --all contradict each other." if names else "Which projections are to be rebuilt?",
            hint=f"Name some of {', '.join(sorted(models.projections))}; or say --all.",
        )
    return list(names or models.projections)


def _refold(session: Session, names: Sequence[str] | None, all_: bool, deployment: str) -> None:
    def work(models: "ReadModels", key: str | None) -> list[dict[str, Any]]:
        by_stream = [it.name for it in models.projections.values() if it.is_by_stream]
        wanted = _chosen(models, names, all_) if names else by_stream
        for name in wanted:
            models.projection(name)
        for name in wanted:
            models.refold(name, [key] if key else [])
        return [{"name": name, "key": key} for name in wanted]

    with Interruptible():
        done = _do(session, work, deployment)
    with session.reporting():
        if session.is_json:
            _print_json(session, done)
            return
        for it in done:
            session.stdout.print(f"{it['name']}: the row of {it['key']} was rebuilt.", highlight=False)


def _parked(models: "ReadModels", name: str | None = None) -> "list[tuple[str, ParkedEvent]]":
    """Return what is parked now: what the log has more is applied first."""
    for projection in [models.projection(name)] if name else models.projections.values():
        models.catch_up(projection)
    return models.parked(name, limit=_ALL)


def _with_parked(models: "ReadModels", names: "Sequence[str]") -> "list[ReadModelStatus]":
    """Return how those of the projections stand that have parked events."""
    return [it for it in models.status() if it.name in names and it.is_current and it.parked]


def _advise(session: Session, status: "ReadModelStatus") -> None:
    """Say in words what there is to do, if there is something."""
    if status.parked and status.is_current:
        advice = (
            f"{status.name}: {_events(status.parked)} parked. "
            f"`deployledger projections parked list {status.name}` says why; "
            f"when that is mended, `deployledger projections parked retry {status.name}` applies them."
        )
    elif status.is_being_rebuilt:
        advice = f"{status.name} is being rebuilt or verified."
    elif status.follower:
        advice = f"{status.name} is followed by {status.follower}."
    elif not status.is_current:
        advice = (
            f"{status.name} version {status.version} is not read by this software. When nothing else reads "
            f"it, `deployledger projections remove {status.name} {status.version}` removes its rows."
        )
    else:
        return
    session.stderr.print(advice, highlight=False, soft_wrap=True)


def _events(number: int) -> str:
    return "1 event is" if number == 1 else f"{number:,} events are"


def _rate(status: "ReadModelStatus") -> float | None:
    if not status.rebuild_seconds or status.rebuild_events is None:
        return None
    return round(status.rebuild_events / status.rebuild_seconds, 1)


def _verified(verified: "Verified") -> dict[str, Any]:
    return {**vars(verified), "differences": [vars(it) for it in verified.differences]}


def _print_verified(session: Session, verified: "Verified", parked: int) -> None:
    at = f"at position {verified.position:,} ({units.duration(verified.seconds)})"
    rows = f"{verified.rows:,} {'row' if verified.rows == 1 else 'rows'}"
    if not verified.differences:
        equal = "equals" if verified.rows == 1 else "equal"
        but = f", but {_events(parked)} parked," if parked else ""
        session.stdout.print(f"{verified.name}: {rows} {equal} the log{but} {at}.", highlight=False)
        return
    from deployledger.adapters.cli.rendering import differences_table

    number = len(verified.differences)
    differences = "1 difference" if number == 1 else f"{number:,} differences"
    session.stdout.print(f"{verified.name}: {differences} in {rows} {at}.", highlight=False)
    session.show(differences_table(verified.differences))


def _print_json(session: Session, answer: Any) -> None:
    """Print an answer as JSON, in which rows may have values of any kind."""
    session.print_json(json.loads(json.dumps(answer, default=_plain)))


def _plain(value: Any) -> str:
    from datetime import datetime

    return value.isoformat() if isinstance(value, datetime) else str(value)
