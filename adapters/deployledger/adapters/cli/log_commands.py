"""The commands that are about the event log and its database."""

import asyncio
import base64
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.files import STANDARD, file_to_read, file_to_write, writing
from deployledger.adapters.cli.findings import print_finding
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.listing import NameFilter, check_range, moment
from deployledger.adapters.cli.reading import Reading
from deployledger.adapters.cli.session import (
    DeploymentOption,
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    Session,
    VerboseOption,
    as_json,
    end_at_once_on_ctrl_c,
    escaped,
    session_for,
)
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from deployledger.adapters.event_log import DatabaseEventLog
    from deployledger.adapters.export import Exported, Imported
    from deployledger.domain.event_log import EventLog, SchemaState
    from deployledger.domain.findings import Finding
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.log_reading import LoggedEvent

_T = TypeVar("_T")

database = Commands(name="db", help="Create, check and upgrade the event log's database.")
log = Commands(name="log", help="Read, export and import the event log.")

_LAST = 20


@database.command()
def init(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Create the schema and every table that the database lacks.

    Examples:
        deployledger db init
    """
    session = session_for(output, verbose)
    state = _set_up(session, lambda log: log.create_schema())
    with session.reporting():
        _print_state(session, state)


@database.command()
def check(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Check that the database has the required schema and is undamaged.

    Exit code 1 if there is a problem, 0 if there are only warnings.

    Examples:
        deployledger db check
    """
    session = session_for(output, verbose)
    session.reports_clock = True

    async def work(service: "DeploymentService") -> "tuple[SchemaState, list[Finding]]":
        from deployledger.service.database_checks import check_database

        end_at_once_on_ctrl_c()
        return service.event_log.schema_state(), check_database(service)

    with Interruptible():
        state, findings = session.run(work)
    if session.is_json:
        session.print_json({**_state(state), "findings": [it.to_json() for it in findings]})
    else:
        for finding in findings:
            print_finding(session, finding)
    if any(it.is_problem for it in findings):
        raise SystemExit(int(ExitCode.FAILED))


@database.command()
def upgrade(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Upgrade an older schema to the required one; every event is kept.

    Examples:
        deployledger db upgrade
    """
    session = session_for(output, verbose)
    state = _set_up(session, lambda log: log.upgrade_schema())
    with session.reporting():
        _print_state(session, state)


@log.command()
def tail(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue as events are added.")] = False,
    from_: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="POSITION", help="Start after this position.", show_default="the last 20"
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Start with events recorded at or after this time: an age, as in 12h or 2h30m, or a time "
            "with its zone, as in 2026-03-01T12:00Z. (`list --since` goes by when they happened, a little "
            "before.)",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop before events recorded at or after this time; with --follow, it may be in the future.",
            show_default=False,
        ),
    ] = None,
    deployment: DeploymentOption = None,
    name: NameFilter = None,
    actor: Annotated[str | None, typer.Option(help="Filter by actor.", show_default=False)] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=completion.topics,
            help="Only events of this topic; repeatable.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Print events in log order; as JSON, one object per line.

    Each line has the position, the recorded time, the topic, the deployment and the actor, and for a failure
    the reason. With `-o wide`, and in a pipe, it also has the stream and its version, the time to the
    microsecond (UTC) and the full reason; `-o wide` adds the hint of a failure.

    Examples:
        deployledger log tail
        deployledger log tail --since 12h --topic deployment.failed
        deployledger log tail --follow --name iris -o json
    """
    session = session_for(output, verbose)
    begin, end = moment(since, "--since"), moment(until, "--until")
    check_range(("--since", begin), ("--until", end))
    if from_ is not None and since is not None:
        raise UsageError(
            "--from and --since contradict each other: both say where to begin.", hint="Give one of them."
        )

    async def question(service: "DeploymentService") -> None:
        found = (await service.find_deployment(deployment)).deployment_id if deployment else None
        await session.say_if_empty(service.event_log)
        logged = service.read_log(
            after=from_,
            last=_LAST,
            since=begin,
            until=end,
            topics=topic or [],
            deployment_id=found,
            actor=actor,
            name_contains=name,
            follow=follow,
        )
        is_any = False
        print_event = _printing(session)
        async for event in logged:
            is_any = True
            print_event(event)
        if not is_any and service.event_log.position():
            session.stderr.print("No event matches.")

    with Interruptible():
        session.run(question)


@log.command()
def stats(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Show the size of the log, its events by topic, and times that are wrong.

    Examples:
        deployledger log stats
    """
    session = session_for(output, verbose)
    session.reports_clock = True
    found, wrong = _of_log(session, lambda log: (log.statistics(), log.times().wrong))
    if session.is_json:
        session.print_json({**as_json(found), "wrong_times": [as_json(it) for it in wrong]})
        return
    lines = [
        ("Database", found.database),
        ("Schema version", str(found.schema_version)),
        ("Events", f"{found.events:,}"),
        ("Streams", f"{found.streams:,}"),
        ("First recorded", _moment(found.first_recorded_at)),
        ("Last recorded", _moment(found.last_recorded_at)),
        ("Size", f"{found.size_bytes:,} bytes"),
        *((topic, f"{number:,}") for topic, number in found.topics.items()),
    ]
    for label, value in lines:
        session.stdout.print(
            f"[bold]{escaped(label):<31}[/] {escaped(value)}", highlight=False, soft_wrap=True
        )
    for it in wrong:
        session.stdout.print(f"[yellow]![/] {escaped(it)}", highlight=False, soft_wrap=True)


@log.command("export")
def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file to write; - is standard output.",
            parser=file_to_write,
            show_default=False,
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Export the whole log to a file, for another database or as a backup.

    The log stays in use meanwhile. The file appears when it is complete.

    Examples:
        deployledger log export log.jsonl.gz
        deployledger log export - > log.jsonl.gz
    """
    from deployledger.adapters.export import export_log

    session = session_for(output, verbose)
    session.is_aside = file == STANDARD

    def work(log: "EventLog") -> "tuple[Exported, int]":
        with writing(file) as written, _Moving(session) as moving:
            exported = export_log(log, written, replace=force, progress=moving)
        if session.is_aside:
            exported = replace(exported, file="standard output")
        return exported, log.position() - exported.events

    with Interruptible():
        done, more = _of_log_here(session, work)
    if more:
        session.stderr.print(
            f"The log has {_number(more, 'more event')} by now, not in this file. If they are to be, stop "
            "what adds to the log, and export again with --force.",
            highlight=False,
            soft_wrap=True,
        )
    with session.reporting():
        if session.is_json:
            _print_moved(session, done)
            return
        _print_lines(
            session,
            f"Exported {_counted(done)} from {done.database} ({units.duration(done.seconds)}).",
            f"File  {done.file} ({done.size_bytes:,} bytes)",
            f"Root  {_base64(done.root)}",
        )
    _say(session, done, "`deployledger log import FILE` reads it into a database that has no events.")


@log.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A file that `log export` wrote; - is standard input.",
            parser=file_to_read,
            show_default=False,
        ),
    ],
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Import an exported log into this database, which must have no events.

    It is one transaction: nothing is visible until the whole log is imported and its root equals that in the
    file.

    Examples:
        deployledger log import log.jsonl.gz
    """
    from deployledger.adapters.export import import_log

    session = session_for(output, verbose)

    def work(log: "DatabaseEventLog") -> "Imported":
        with _Moving(session) as moving:
            return import_log(log, file, progress=moving)

    with Interruptible():
        done = _of_log_here(session, work)
    with session.reporting():
        if session.is_json:
            _print_moved(session, done)
            return
        _print_lines(
            session,
            f"Imported {_counted(done)} into {done.database} ({units.duration(done.seconds)}).",
            f"Root  {_base64(done.root)} (the same as that of the exported log)",
        )
    _say(
        session,
        done,
        "Set DEPLOYLEDGER_DATABASE_URL to this database for everything that used the other one, and use "
        "the other one no more: what is added there now is not here.",
    )


class _Moving:
    """Shows how far moving a log has come, with a bar for each thing that is done one after the other."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._doing = ""
        self._bars = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def __call__(self, doing: str, done: int, total: int, /) -> None:
        if doing != self._doing:
            self._bars.close()
            self._doing, self._bar = doing, self._bars.enter_context(Reading(self._session, doing))
        self._bar(done, total)


def _counted(moved: "Exported | Imported") -> str:
    return f"{_number(moved.events, 'event')} and {_number(moved.keys, 'idempotency key')}"


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _base64(root: bytes) -> str:
    return base64.b64encode(root).decode()


def _print_moved(session: Session, moved: "Exported | Imported") -> None:
    session.print_json({**vars(moved), "root": _base64(moved.root), "seconds": round(moved.seconds, 3)})


def _print_lines(session: Session, *lines: str) -> None:
    for line in lines:
        session.stdout.print(escaped(line), highlight=False, soft_wrap=True)


def _say(session: Session, moved: "Exported | Imported", advice: str) -> None:
    """Say what there is to know beside the answer."""
    session.stderr.print(escaped(advice), highlight=False, soft_wrap=True)


def _moment(moment: "datetime | None") -> str:
    from deployledger.domain.timestamps import rfc3339

    return rfc3339(moment) if moment else "-"


def _set_up(session: Session, change: "Callable[[EventLog], SchemaState]") -> "SchemaState":
    """Change the schema, and have every other table, too: services may not be allowed to create any."""

    def work(service: "DeploymentService") -> "SchemaState":
        state = change(service.event_log)
        service.read_models.prepare()
        service.ledger.store.size()  # this creates its tables
        return state

    async def use(service: "DeploymentService") -> "SchemaState":
        return await asyncio.to_thread(work, service)

    return session.run(use)


def _of_log(session: Session, question: "Callable[[EventLog], Any]") -> Any:
    async def ask(service: "DeploymentService") -> Any:
        return await asyncio.to_thread(question, service.event_log)

    return session.run(ask)


def _of_log_here(session: Session, work: "Callable[[DatabaseEventLog], _T]") -> _T:
    """Do work that takes long in this thread, so that Ctrl-C ends it at once."""

    async def use(service: "DeploymentService") -> _T:
        end_at_once_on_ctrl_c()
        return work(cast("DatabaseEventLog", service.event_log))

    return session.run(use)


def _printing(session: Session) -> "Callable[[LoggedEvent], None]":
    """Return what prints the next event, as JSON, whole on a line, or at a glance."""
    from deployledger.adapters.cli.log_lines import Glance, whole_line

    if session.is_json:
        return lambda logged: session.print_json(_event(logged), is_line=True)
    if session.is_wide or not session.stdout.is_terminal:
        return lambda logged: session.print_lines(whole_line(logged, is_wide=session.is_wide))
    glance = Glance(units.Clock.of(session.stdout))
    return lambda logged: session.show(glance.next(logged))


def _event(logged: "LoggedEvent") -> dict[str, Any]:
    recorded = logged.recorded
    event = recorded.event
    return {
        "position": recorded.position,
        "recorded_at": recorded.recorded_at.isoformat(),
        "stream_id": str(event.originator_id),
        "stream_version": event.originator_version,
        "topic": event.TOPIC,
        "deployment_name": logged.deployment_name,
        **event.model_dump(mode="json"),
    }


def _state(state: "SchemaState") -> dict[str, Any]:
    return {**vars(state), "ready": state.found == state.needed}


def _print_state(session: Session, state: "SchemaState") -> None:
    if session.is_json:
        session.print_json(_state(state))
    elif state.found == state.needed:
        session.stdout.print(
            f"The event log in {escaped(state.database)} is ready (schema version {state.found}).",
            highlight=False,
        )
    else:
        found = f"schema version {state.found}" if state.found else "no schema"
        session.stdout.print(
            f"The event log in {escaped(state.database)} has {found}; version {state.needed} is needed.",
            highlight=False,
        )
