"""Events read and decoded per second by eventsourcing as shipped: its recorder, its mapper, its transcoder.

They are the events of ``benchmarks/filling.py``, field by field, as events of the library's ``Aggregate``.
"""

import sys
import time
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.baselines.library_append import environment
from benchmarks.filling import history

PAGE = 5_000
_SAVED_AT_ONCE = 20


class Deployment(Aggregate):
    class Event(Aggregate.Event):
        event_id: UUID
        actor: str
        correlation_id: UUID
        causation_id: UUID | None
        revision: int

    class Requested(Aggregate.Created):
        event_id: UUID
        actor: str
        correlation_id: UUID
        causation_id: UUID | None
        revision: int
        name: str
        model_uri: str
        target: dict[str, Any]
        resources: dict[str, Any] | None
        tags: dict[str, Any]
        orchestrator: str

    class ArtifactsFetched(Event):
        artifact: dict[str, Any]
        simulated: bool

    class Packaged(Event):
        image: dict[str, Any]
        simulated: bool

    class Provisioned(Event):
        endpoint_url: str
        simulated: bool

    @event(Requested)
    def __init__(
        self,
        event_id: UUID,
        actor: str,
        correlation_id: UUID,
        causation_id: UUID | None,
        revision: int,
        name: str,
        model_uri: str,
        target: dict[str, Any],
        resources: dict[str, Any] | None,
        tags: dict[str, Any],
        orchestrator: str,
    ):
        self.name = name

    def apply_later(self, fields: dict[str, Any]) -> None:
        if "artifact" in fields:
            self.trigger_event(self.ArtifactsFetched, **fields)
        elif "image" in fields:
            self.trigger_event(self.Packaged, **fields)
        else:
            self.trigger_event(self.Provisioned, **fields)


class Deployments(Application):
    name = "deployments"


def deployed(number: int) -> Deployment:
    requested, *others = [event.model_dump() for event in history(number)]
    deployment = Deployment(**_without_time(requested))
    for fields in others:
        deployment.apply_later(_without_time(fields))
    return deployment


def _without_time(fields: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(fields.pop("timestamp"), datetime)  # the library adds its own
    return fields


def fill(application: Application, deployments: int) -> None:
    for first in range(0, deployments, _SAVED_AT_ONCE):
        some = range(first, min(first + _SAVED_AT_ONCE, deployments))
        application.save(*[deployed(number) for number in some])


def read(application: Application) -> int:
    """Read and decode all events, and return how many there are."""
    events = 0
    position = 1
    while page := application.recorder.select_notifications(position, PAGE):
        for notification in page:
            application.mapper.to_domain_event(notification)
        events += len(page)
        position = page[-1].id + 1
    return events


def main(url: str, deployments: int) -> None:
    application = Deployments(environment(url, 6))
    fill(application, deployments)
    start = time.perf_counter()
    events = read(application)
    print(f"library read and decode: {events / (time.perf_counter() - start):.0f} events/s")
    application.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
