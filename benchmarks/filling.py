"""Fills event logs with the histories of many deployments, below the service, which would take minutes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID, uuid4

from benchmarks.baselines.library_append import TARGET
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.commands import Command, EventRow
from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain import events
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.values import Artifact, Image

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_AT_ONCE = 64


def fill(url: str, deployments: int, events_each: int = 4) -> None:
    """Fill a log with deployments of up to four events each; 64 of them are worked on at the same time.

    It goes by the writer that every append goes through.
    """
    log = open_event_log(url, create=True)
    log.position()
    commits = log._commits  # below the log's own append, which encodes each event again
    mapper = EventMapper()

    def store(first: int) -> None:
        histories = [
            list(islice(history(number), events_each))
            for number in range(first, min(first + _AT_ONCE, deployments))
        ]
        commits.store(
            Command(
                [
                    _row(mapper, event)
                    for events_at_once in zip(*histories, strict=True)
                    for event in events_at_once
                ]
            )
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, range(0, deployments, _AT_ONCE)))
    log.close()


def _row(mapper: EventMapper, event: events.Event) -> EventRow:
    return EventRow(
        event.originator_id,
        event.originator_version,
        event.TOPIC,
        mapper.encode(event),
        event.event_id,
        event.actor,
        event.correlation_id,
        event.causation_id,
    )


def history(number: int) -> Iterator[events.DeploymentEvent]:
    """Return the events of one deployment, which becomes active."""
    stream, correlation = uuid4(), uuid4()
    cause: UUID | None = None

    def common(version: int) -> dict[str, object]:
        nonlocal cause
        event_id = uuid4()
        fields: dict[str, object] = {
            "originator_id": stream,
            "originator_version": version,
            "timestamp": _BEGIN + timedelta(seconds=number, microseconds=version),
            "event_id": event_id,
            "actor": "ci@example.org",
            "correlation_id": correlation,
            "causation_id": cause,
            "revision": 1,
        }
        cause = event_id
        return fields

    uri = f"models:/model-{number % 1000}/{number % 7 + 1}"
    yield events.Requested(
        **common(1),
        name=f"name-{number}",
        model_uri=uri,
        target=DeploymentTargetConfig(**TARGET),
        tags={"team": f"team-{number % 20}"},
        orchestrator="local-process",
    )
    digest = f"sha256:{number:064x}"
    artifact = Artifact(digest=digest, size_bytes=12_345, file_count=3, resolved_uri=uri)
    yield events.ArtifactsFetched(**common(2), artifact=artifact)
    image = Image(reference=f"registry/x@{digest}", digest=digest, size_bytes=23_456)
    yield events.Packaged(**common(3), image=image)
    yield events.Provisioned(**common(4), endpoint_url=f"http://name-{number}/")
