"""The commands that are about the event log and its database."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployledger.adapters.cli.session import (
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    Session,
    VerboseOption,
    escaped,
    session_for,
)

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from deployledger.domain.event_log import EventLog, RecordedEvent, SchemaState
    from deployledger.service.deployment_service import DeploymentService

database = typer.Typer(help="Look after the database of the event log.", no_args_is_help=True)
log = typer.Typer(help="Look at the event log itself.", no_args_is_help=True)

_LAST = 20
_LOOK_BACK = 10_000
"""How far back the last events are looked for, where a filter leaves most out."""


@database.command()
def init(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Create the event log's schema in the database, if it has none."""
    session = session_for(output, verbose)
    _print_state(session, _of_log(session, lambda log: log.create_schema()))


@database.command()
def check(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Say which schema the database has; exit code 1 if it is not the one that is needed."""
    session = session_for(output, verbose)
    state = _of_log(session, lambda log: log.schema_state())
    _print_state(session, state)
    if state.found != state.needed:
        raise SystemExit(int(ExitCode.FAILED))


@database.command()
def upgrade(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Bring an older schema to the one that is needed; every event is kept."""
    session = session_for(output, verbose)
    _print_state(session, _of_log(session, lambda log: log.upgrade_schema()))


@log.command()
def tail(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events are added.")] = False,
    from_: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="POSITION", help="Begin behind this position.", show_default="the last 20"
        ),
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option(metavar="DEPLOYMENT", help="Only this one: a name, an id, or the beginning of an id."),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Only events of this topic; may be given again.", show_default=False),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Print events in the order of the log; as JSON, one object a line."""
    session = session_for(output, verbose)

    async def question(service: "DeploymentService") -> None:
        stream_id = (await service.find_deployment(deployment)).deployment_id if deployment else None
        await _tail(session, service.event_log, follow, from_, topic or [], stream_id)

    with Interruptible():
        session.run(question)


@log.command()
def stats(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Say what is in the log."""
    session = session_for(output, verbose)
    found = _of_log(session, lambda log: log.statistics())
    if session.is_json:
        from dataclasses import asdict

        moments = ("first_recorded_at", "last_recorded_at")
        times = {name: (moment := getattr(found, name)) and moment.isoformat() for name in moments}
        session.print_json({**asdict(found), **times})
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
        session.stdout.print(f"[bold]{escaped(label):<31}[/] {escaped(value)}", highlight=False)


def _moment(moment: "datetime | None") -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "-"


def _of_log(session: Session, question: "Callable[[EventLog], Any]") -> Any:
    async def ask(service: "DeploymentService") -> Any:
        return await asyncio.to_thread(question, service.event_log)

    return session.run(ask)


async def _tail(
    session: Session,
    log: "EventLog",
    follow: bool,
    after: int | None,
    topics: list[str],
    stream_id: "UUID | None",
) -> None:
    end = await asyncio.to_thread(log.position)
    start = max(0, end - _LOOK_BACK) if after is None else after
    follower = await asyncio.to_thread(log.follow, start, topics=topics, stream_id=stream_id)
    with follower:
        if after is None:
            last: deque[RecordedEvent] = deque(maxlen=_LAST)
            while follower.position < end and (batch := await asyncio.to_thread(follower.next_batch, 0)):
                last.extend(batch.events)
            _print_events(session, last)
        while not follow and (batch := await asyncio.to_thread(follower.next_batch, 0)):
            _print_events(session, batch.events)
        if follow:
            # Not in a thread: a thread that waits could not be interrupted.
            async for batch in follower:
                _print_events(session, batch.events)


def _print_events(session: Session, events: "Iterable[RecordedEvent]") -> None:
    for recorded in events:
        _print_event(session, recorded)
    sys.stdout.flush()


def _print_event(session: Session, recorded: "RecordedEvent") -> None:
    event = recorded.event
    if session.is_json:
        line = {
            "position": recorded.position,
            "recorded_at": recorded.recorded_at.isoformat(),
            "stream_id": str(event.originator_id),
            "stream_version": event.originator_version,
            "topic": event.TOPIC,
            **event.model_dump(mode="json"),
        }
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        sys.stdout.write(
            f"{recorded.position:>8}  {recorded.recorded_at:%Y-%m-%d %H:%M:%S}  {event.TOPIC:<32} "
            f"{str(event.originator_id)[:8]} v{event.originator_version:<4} {event.actor}\n"
        )


def _print_state(session: Session, state: "SchemaState") -> None:
    if session.is_json:
        is_ready = state.found == state.needed
        session.print_json(
            {"database": state.database, "found": state.found, "needed": state.needed, "ready": is_ready}
        )
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
