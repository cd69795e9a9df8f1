"""The commands that are about the event log and its database."""

import base64
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import typer

from deployledger.adapters.cli import completion, marks, units
from deployledger.adapters.cli.files import STANDARD, file_to_read, file_to_write, writing
from deployledger.adapters.cli.filters import NameFilter
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.options import DeploymentOption, ForceOption, SessionOptions
from deployledger.adapters.cli.reading import Reading
from deployledger.adapters.cli.session import Session
from deployledger.adapters.cli.typed_times import check_range, moment
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from deployledger.adapters.event_log import DatabaseEventLog
    from deployledger.adapters.export import Exported, Imported
    from deployledger.domain.event_log import EventLog, SchemaState
    from deployledger.domain.findings import Finding
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.log_reading import LoggedEvent

database = Commands(name="db", help="Create, check and upgrade the event log's database.")
log = Commands(name="log", help="Read, export and import the event log.")

_LAST = 20


@database.command()
def init(*, session: SessionOptions) -> None:
    """Create the schema and every table that the database lacks.

    Examples:
        deployledger db init
    """
    _set_up(session, lambda log: log.create_schema())


@database.command()
def check(*, session: SessionOptions) -> None:
    """Check that the database has the required schema and is undamaged.

    Exit code 1 if there is a problem, 0 if there are only warnings.

    Examples:
        deployledger db check
    """
    from deployledger.adapters.cli.findings import say_finding

    session.reports_clock = True

    def work(service: "DeploymentService") -> "tuple[SchemaState, list[Finding]]":
        from deployledger.service.database_checks import check_database

        return service.event_log.schema_state(), check_database(service)

    state, findings = session.work(work)
    if session.is_json:
        session.print_json({**_state(state), "findings": findings})
    else:
        for finding in findings:
            say_finding(session, finding)
    session.exit_if(any(finding.is_problem for finding in findings))


@database.command()
def upgrade(*, session: SessionOptions) -> None:
    """Upgrade an older schema to the required one; every event is kept.

    Examples:
        deployledger db upgrade
    """
    _set_up(session, lambda log: log.upgrade_schema())


@log.command()
def tail(
    *,
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
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop before events recorded at or after this time; with --follow, it may be in the future.",
        ),
    ] = None,
    deployment: DeploymentOption = None,
    name: NameFilter = None,
    actor: Annotated[str | None, typer.Option(help="Filter by actor.")] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(autocompletion=completion.topics, help="Only events of this topic; repeatable."),
    ] = None,
    session: SessionOptions,
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
    begin, end = moment(since, "--since"), moment(until, "--until")
    check_range(("--since", begin), ("--until", end))
    if from_ is not None and since is not None:
        raise UsageError(
            "--from and --since contradict each other: both say where to begin.", hint="Give one of them."
        )

    async def question(service: "DeploymentService") -> None:
        stream = (await service.find_deployment(deployment)).deployment_id if deployment else None
        await session.note_if_empty(service.event_log)
        events = service.read_log(
            after=from_,
            last=_LAST,
            since=begin,
            until=end,
            topics=topic or [],
            deployment_id=stream,
            actor=actor,
            name_contains=name,
            follow=follow,
        )
        is_any = False
        print_event = _printing(session)
        async for event in events:
            is_any = True
            print_event(event)
        if not is_any and service.event_log.position():
            session.note("No event matches.")

    session.run(question)


@log.command()
def stats(*, session: SessionOptions) -> None:
    """Show the size of the log, its events by topic, and times that are wrong.

    Examples:
        deployledger log stats
    """
    session.reports_clock = True
    statistics, wrong = session.work(
        lambda service: (service.event_log.statistics(), service.event_log.times().wrong)
    )
    if session.is_json:
        session.print_json({**vars(statistics), "wrong_times": wrong})
        return
    lines = [
        ("Database", statistics.database),
        ("Schema version", str(statistics.schema_version)),
        ("Events", f"{statistics.events:,}"),
        ("Streams", f"{statistics.streams:,}"),
        ("First recorded", _time(statistics.first_recorded_at)),
        ("Last recorded", _time(statistics.last_recorded_at)),
        ("Size", f"{statistics.size_bytes:,} bytes"),
        *((topic, f"{number:,}") for topic, number in statistics.topics.items()),
    ]
    for label, value in lines:
        session.say((f"{label:<31}", "bold"), f" {value}")
    for wrong_times in wrong:
        session.say(marks.WARNING.before(str(wrong_times)))


@log.command("export")
def export(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file to write; - is standard output.", parser=file_to_write),
    ],
    *,
    force: ForceOption = False,
    session: SessionOptions,
) -> None:
    """Export the whole log to a file, for another database or as a backup.

    The log stays in use meanwhile. The file appears when it is complete.

    Examples:
        deployledger log export log.jsonl.gz
        deployledger log export - > log.jsonl.gz
    """
    from deployledger.adapters.export import export_log

    session.is_aside = file == STANDARD

    def work(service: "DeploymentService") -> "tuple[Exported, int]":
        log = service.event_log
        with writing(file) as written, _Steps(session) as steps:
            exported = export_log(log, written, replace=force, progress=steps)
        if session.is_aside:
            exported = replace(exported, file="standard output")
        return exported, log.position() - exported.events

    exported, more = session.work(work)
    if more:
        session.note(
            f"The log now has {units.number(more, 'more event')} than this file. To include them, stop "
            "whatever adds to the log, and export again with --force."
        )
    with session.reporting():
        if session.is_json:
            _print_json(session, exported)
            return
        session.say(
            f"Exported {_counted(exported)} from {exported.database} ({units.duration(exported.seconds)})."
        )
        session.say(f"File  {exported.file} ({exported.size_bytes:,} bytes)")
        session.say(f"Root  {_base64(exported.root)}")
    session.note("`deployledger log import FILE` imports it into a database that has no events.")


@log.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A file that `log export` wrote; - is standard input.", parser=file_to_read
        ),
    ],
    *,
    session: SessionOptions,
) -> None:
    """Import an exported log into this database, which must have no events.

    It is one transaction: nothing is visible until the whole log is imported and its root equals that in the
    file.

    Examples:
        deployledger log import log.jsonl.gz
    """
    from deployledger.adapters.export import import_log

    def work(service: "DeploymentService") -> "Imported":
        with _Steps(session) as steps:
            return import_log(cast("DatabaseEventLog", service.event_log), file, progress=steps)

    imported = session.work(work)
    with session.reporting():
        if session.is_json:
            _print_json(session, imported)
            return
        session.say(
            f"Imported {_counted(imported)} into {imported.database} ({units.duration(imported.seconds)})."
        )
        session.say(f"Root  {_base64(imported.root)} (the same as that of the exported log)")
    session.note(
        "Set DEPLOYLEDGER_DATABASE_URL to this database for everything that used the other one, and stop "
        "using the other one: events added there from now on are not here."
    )


class _Steps:
    """Shows the progress of an export or import, with a bar for each of its steps."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._step = ""
        self._bars = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def __call__(self, step: str, done: int, total: int, /) -> None:
        if step != self._step:
            self._bars.close()
            self._step, self._bar = step, self._bars.enter_context(Reading(self._session, step))
        self._bar(done, total)


def _counted(moved: "Exported | Imported") -> str:
    return f"{units.number(moved.events, 'event')} and {units.number(moved.keys, 'idempotency key')}"


def _base64(root: bytes) -> str:
    return base64.b64encode(root).decode()


def _print_json(session: Session, moved: "Exported | Imported") -> None:
    session.print_json({**vars(moved), "root": _base64(moved.root), "seconds": round(moved.seconds, 3)})


def _time(moment: "datetime | None") -> str:
    from deployledger.domain.timestamps import rfc3339

    return rfc3339(moment) if moment else "-"


def _set_up(session: Session, change: "Callable[[EventLog], SchemaState]") -> None:
    """Change the schema, and create every other table, too: services may not be allowed to create any."""

    def work(service: "DeploymentService") -> "SchemaState":
        state = change(service.event_log)
        service.read_models.prepare()
        service.ledger.store.size()  # this creates its tables
        return state

    state = session.work(work)
    with session.reporting():
        if session.is_json:
            session.print_json(_state(state))
        elif state.found == state.needed:
            session.say(f"The event log in {state.database} is ready (schema version {state.found}).")
        else:
            actual = f"schema version {state.found}" if state.found else "no schema"
            session.say(f"The event log in {state.database} has {actual}; version {state.needed} is needed.")


def _state(state: "SchemaState") -> dict[str, Any]:
    return {**vars(state), "ready": state.found == state.needed}


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
