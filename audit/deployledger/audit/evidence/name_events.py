"""The names of a deployment according to its events, and the name events that must be in the log."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from deployledger.audit.evidence.cloud_events import Recorded
from deployledger.domain import topics
from deployledger.domain.reservations import reservation_id


class Naming:
    """What the events of a deployment, and those of its names, say of its names.

    A deployment reserves its name with its first event, and another name with the event that renames it,
    which also releases the one before; its deletion releases the last one.

    Attributes:
        name: the name after the last of its events; empty if none is known.
    """

    def __init__(self, deployment_id: UUID) -> None:
        self.name = ""
        self._deployment_id = deployment_id
        self._expected: Counter[tuple[str, str]] = Counter()
        self._found: Counter[tuple[str, str]] = Counter()
        self._versions: dict[str, tuple[str, int]] = {}
        self._is_readable = True
        self._names: dict[str, None] = {}
        self._misplaced: list[str] = []

    @property
    def names(self) -> list[str]:
        """All names that the deployment had, in order."""
        return [*self._names]

    def add(self, event: Recorded) -> None:
        """Add the next event of the deployment."""
        data = event.data
        name = data.get("name") if isinstance(data, dict) else None
        if event.topic in topics.SPECIFYING and not isinstance(name, str):
            self._is_readable = False  # what it reserves is not known
        if isinstance(name, str):
            if event.topic in topics.SPECIFYING and name != self.name:
                self._expected[topics.NAME_RESERVED, name] += 1
                if self.name:
                    self._expected[topics.NAME_RELEASED, self.name] += 1
            self.name = name
            self._names[name] = None
        if event.topic == topics.DELETED and self.name:
            self._expected[topics.NAME_RELEASED, self.name] += 1

    def add_of_name(self, event: Recorded) -> bool:
        """Add the next event of a name; False if it is not about the deployment."""
        data = event.data
        if not isinstance(data, dict) or data.get("deployment_id") != str(self._deployment_id):
            return False
        name = data.get("name")
        if event.topic not in (topics.NAME_RESERVED, topics.NAME_RELEASED) or not isinstance(name, str):
            return False
        if UUID(bytes=event.stream_id) != reservation_id(name):
            return False
        before, version = self._versions.get(name, (topics.NAME_RELEASED, 0))
        is_next = event.stream_version == version + 1 or (
            version < event.stream_version and event.topic == topics.NAME_RESERVED
        )
        if event.topic == before or not is_next:
            self._misplaced.append(
                f"event {event.stream_version} of the name {name!r} does not follow event {version}"
            )
        self._versions[name] = (event.topic, event.stream_version)
        self._found[event.topic, name] += 1
        return True

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the events of names, once all events were added."""
        yield from self._misplaced
        if not self._is_readable:
            return
        for counts, others, what in (
            (self._expected, self._found, "is missing"),
            (self._found, self._expected, "does not belong to the deployment"),
        ):
            for (topic, name), count in (counts - others).items():
                verb = topic.rpartition(".")[2]
                events = "the event" if count == 1 else f"{count} events"
                yield f"{events} by which the name {name!r} is {verb} {what if count == 1 else f'({what})'}"
