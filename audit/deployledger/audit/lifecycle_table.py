"""Which event may follow which, as a table small enough to check millions of events with.

The table is made by trying: what the fold of the list of deployments accepts is legal.
"""

from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core.core_schema import any_schema, typed_dict_field, typed_dict_schema

from deployledger.domain import events
from deployledger.domain.clock import ClockCorrected
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.names import NameReleased, NameReserved
from deployledger.domain.schemas import DeploymentTargetConfig
from deployledger.projections import deployment_list
from deployledger.projections.deployment_list import ListRow

ILLEGAL = -1
UNKNOWN = -2
"""A standing after which anything is taken for legal: what led to it was not."""

_TYPES = ("api_service", "batch_inference_job")
SPECIFYING = frozenset({events.Requested.TOPIC, events.UpdateRequested.TOPIC})
"""The topics of events that say what a deployment is to be."""

_target_of = SchemaValidator(
    typed_dict_schema(
        {
            "target": typed_dict_field(
                typed_dict_schema({"type": typed_dict_field(any_schema())}, extra_behavior="ignore")
            )
        },
        extra_behavior="ignore",
    )
).validate_json
"""Reads what kind of target a state names, and makes nothing of the rest of it, which takes half the time."""


class Legality:
    """The table: histories are followed by the number of their standing.

    Attributes:
        symbols: the number of each topic; of one that says what a deployment is to be, that of services, and
            one more is that of batch jobs.
        begin: by symbol, the standing after it as the first event of a stream; `ILLEGAL` if it cannot be.
        next: by standing and symbol, the standing after it; `ILLEGAL` if it cannot follow.
        names: what each standing is called.
    """

    def __init__(self) -> None:
        self.symbols: dict[str, int] = {}
        samples: list[DeploymentEvent] = []
        for event_class in _classes(DeploymentEvent):
            self.symbols[event_class.TOPIC] = len(samples)
            for kind in _TYPES if event_class.TOPIC in SPECIFYING else _TYPES[:1]:
                samples.append(_sample(event_class, kind))
        self.names: list[str] = []
        self.next: list[list[int]] = []
        rows: list[ListRow] = []
        places: dict[tuple[Any, ...], int] = {}

        def place(row: ListRow | None, sample: DeploymentEvent) -> int:
            try:
                after = deployment_list.apply(row, sample)
            except (IllegalTransitionError, ValueError):
                return ILLEGAL
            key = (after.state, after.is_serving, after.is_batch_job)
            if key not in places:
                places[key] = len(rows)
                rows.append(after)
            return places[key]

        begin = [place(None, sample) for sample in samples]
        while len(self.next) < len(rows):
            row = rows[len(self.next)]
            self.next.append(
                [
                    ILLEGAL if isinstance(sample, events.Requested) else place(row, sample)
                    for sample in samples
                ]
            )
            self.names.append(f"state {row.state}" + (", with a revision that serves" * row.is_serving))
        self._add_names(begin, len(samples))
        self._add_clock(begin, len(samples) + 2)
        self.begin = begin

    def _add_names(self, begin: list[int], reserved: int) -> None:
        """Add the streams in which names are reserved and released in turn."""
        self.symbols[NameReserved.TOPIC], self.symbols[NameReleased.TOPIC] = reserved, reserved + 1
        for row in self.next:
            row += [ILLEGAL, ILLEGAL]
        held, free = len(self.next), len(self.next) + 1
        begin += [held, ILLEGAL]
        self.next += [[ILLEGAL] * reserved + [held, free], [ILLEGAL] * reserved + [held, ILLEGAL]]
        self.names += ["a name that is taken", "a name that is free"]

    def _add_clock(self, begin: list[int], corrected: int) -> None:
        """Add the stream of corrections of the clock, which has nothing else."""
        self.symbols[ClockCorrected.TOPIC] = corrected
        for row in self.next:
            row.append(ILLEGAL)
        begin.append(len(self.next))
        self.next.append([ILLEGAL] * corrected + [len(self.next)])
        self.names.append("a correction of the clock")

    def symbol(self, topic: str, state: bytes) -> int:
        """Return the symbol of an event.

        Raises:
            KeyError: if the topic is not known.
            ValueError: if the state does not decode.
        """
        symbol = self.symbols[topic]
        if topic in SPECIFYING:
            try:
                symbol += _target_of(state)["target"]["type"] == _TYPES[1]
            except ValidationError as error:
                problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
                if problem["type"] == "json_invalid":
                    raise ValueError(problem["msg"]) from None
                raise ValueError("it does not say what kind of target it is for") from None
        return symbol


@cache
def legality() -> Legality:
    """Return the table."""
    return Legality()


def _classes(base: type[DeploymentEvent]) -> list[type[DeploymentEvent]]:
    found = [base] if "TOPIC" in vars(base) else []
    return found + [it for subclass in base.__subclasses__() for it in _classes(subclass)]


def _sample(event_class: type[DeploymentEvent], kind: str) -> DeploymentEvent:
    """Return an event of a class, with no more in it than the fold looks at."""
    return event_class.model_construct(
        originator_id=UUID(int=0),
        originator_version=1,
        timestamp=datetime(2000, 1, 1, tzinfo=UTC),
        revision=1,
        name="",
        model_uri="",
        orchestrator="",
        tags={},
        target=DeploymentTargetConfig.model_construct(type=kind),
    )
