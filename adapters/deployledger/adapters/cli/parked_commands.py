"""The commands that are about events that could not be applied to a read model."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployledger.adapters.cli import completion
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.options import DeploymentOption, SessionOptions
from deployledger.adapters.cli.projection_commands import Name, events_are, of_deployment
from deployledger.adapters.cli.session import ExitCode

if TYPE_CHECKING:
    from deployledger.domain.event_records import EventRecord
    from deployledger.projections.read_models import ReadModels
    from deployledger.projections.rows import ParkedEvent
    from deployledger.service.deployment_service import DeploymentService

parked = Commands(name="parked", help="Inspect and retry events that could not be applied.")

_ALL = 1 << 31


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
    *,
    deployment: DeploymentOption = None,
    session: SessionOptions,
) -> None:
    """List parked events by row: how many, which, and why the first could not be applied.

    The later events of a row are parked with it. Wide and JSON output have every event.

    Examples:
        deployledger projections parked list
        deployledger projections parked list deployment_list
    """

    def work(models: "ReadModels", key: str | None) -> "list[tuple[str, ParkedEvent]]":
        return [
            (projection, event)
            for projection, event in _parked(models, name)
            if key in (None, event.stream_id)
        ]

    events = of_deployment(session, work, deployment)
    if session.is_json:
        session.print_json([{"projection": projection, **event._asdict()} for projection, event in events])
    elif events:
        from deployledger.adapters.cli.projection_tables import parked_rows_table, parked_table

        session.show(parked_table(events) if session.is_wide else parked_rows_table(events))
    else:
        session.note("Nothing is parked.")


@parked.command()
def show(
    position: Annotated[int, typer.Argument(metavar="POSITION", help="The event's position in the log.")],
    session: SessionOptions,
) -> None:
    """Show a parked event as it is stored, and why it is parked.

    Examples:
        deployledger projections parked show 1234
    """

    def work(service: "DeploymentService") -> "tuple[EventRecord, list[tuple[str, ParkedEvent]]]":
        from deployledger.domain.exceptions import ResourceNotFoundError

        models = service.read_models
        events = [parked for parked in _parked(models) if parked[1].position == position]
        if not events:
            raise ResourceNotFoundError("Parked event at position", position)
        return next(models.log.records(after=position - 1, limit=1))[0], events

    raw, events = session.work(work)
    try:
        state: Any = json.loads(raw.state)
        shown = json.dumps(state, indent=2, ensure_ascii=False)
    except ValueError:
        state = raw.state.decode(errors="backslashreplace")
        shown = repr(raw.state)
    if session.is_json:
        reasons = [
            {"projection": name, "key": event.key, "error": event.error, "parked_at": event.parked_at}
            for name, event in events
        ]
        fields = {
            "position": raw.position,
            "stream_id": raw.stream,
            "stream_version": raw.stream_version,
            "topic": raw.topic,
        }
        session.print_json({**fields, "state": state, "parked": reasons})
        return
    from deployledger.adapters.cli.projection_tables import parked_card

    session.show(parked_card(raw, events))
    session.print_lines(shown)


@parked.command()
def retry(name: Name, *, deployment: DeploymentOption = None, session: SessionOptions) -> None:
    """Apply parked events again; exit code 1 if some stay parked.

    Examples:
        deployledger projections parked retry deployment_list
    """

    def work(models: "ReadModels", key: str | None) -> int:
        from deployledger.domain.exceptions import ConfigurationError

        if key is not None and not models.projection(name).is_by_stream:
            raise ConfigurationError(
                f"Projection {name} has keys of its own: one deployment's events cannot be retried alone.",
                hint=f"Retry all of them: `deployledger projections parked retry {name}`.",
            )
        return models.retry(name, key)

    left = of_deployment(session, work, deployment)
    with session.reporting(ExitCode.FAILED if left else ExitCode.DONE):
        if session.is_json:
            session.print_json({"projection": name, "parked": left})
        else:
            session.say(
                f"{name}: {events_are(left)} still parked." if left else f"{name}: nothing is parked."
            )


def _parked(models: "ReadModels", name: str | None = None) -> "list[tuple[str, ParkedEvent]]":
    """Return what is parked once the read models are up to date."""
    for projection in [models.projection(name)] if name else models.projections.values():
        models.catch_up(projection)
    return models.parked(name, limit=_ALL)
