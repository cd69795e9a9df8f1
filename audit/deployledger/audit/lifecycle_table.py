"""The lifecycle as a transition table, small enough to check millions of events.

It is the table of the lifecycle, numbered: what each event makes of each standing that a stream can have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core.core_schema import any_schema, typed_dict_field, typed_dict_schema

from deployledger.domain import events
from deployledger.domain.clock_corrections import ClockCorrected
from deployledger.domain.events import DeploymentEvent, Provisioned, Requested, UpdateRequested
from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.lifecycle import LIFECYCLE, State
from deployledger.domain.names import NameReleased, NameReserved
from deployledger.domain.target_types import BATCH_JOB
from deployledger.domain.topics import OUR_PREFIXES, SPECIFYING

ILLEGAL: Final = -1
UNKNOWN: Final = -2
"""A standing after which anything is taken for legal: what led to it was not."""

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

_EVENTS: Sequence[type[DeploymentEvent]] = [
    value
    for value in vars(events).values()
    if isinstance(value, type) and issubclass(value, DeploymentEvent) and "TOPIC" in vars(value)
]
"""The events of deployments. Classes that applications define are none of them, whether imported or not."""


@dataclass(frozen=True)
class _Deployment:
    """What the lifecycle asks of a deployment."""

    state: State
    is_batch_job: bool
    is_serving: bool = False

    def after(self, event: DeploymentEvent, *, is_batch_job: bool) -> "_Deployment | None":
        """Return the deployment after an event; None if the lifecycle does not allow that event.

        Args:
            is_batch_job: whether the event says that the target is a batch job, if it says what it is.
        """
        try:
            state = LIFECYCLE.require(self, event.trigger_for(self), self)
        except IllegalTransitionError:
            return None
        if isinstance(event, UpdateRequested):
            return _Deployment(state, is_batch_job, self.is_serving)
        begins_to_serve = isinstance(event, Provisioned) and not self.is_batch_job
        is_serving = (self.is_serving or begins_to_serve) and state is not State.DELETED
        return _Deployment(state, self.is_batch_job, is_serving)

    def __str__(self) -> str:
        return f"state {self.state}" + ", with a revision that serves" * self.is_serving


class LifecycleTable:
    """The table: histories are followed by the number of their standing.

    Attributes:
        symbols: the number of each topic; of one that says what a deployment is to be, that of services, and
            one more is that of batch jobs.
        foreign: the number of all topics that are not ours: an application may have streams of its own.
        begin: by symbol, the standing after it as the first event of a stream; `ILLEGAL` if it cannot be.
        next: by standing and symbol, the standing after it; `ILLEGAL` if it cannot follow.
        names: what each standing is called.
    """

    def __init__(self) -> None:
        self.symbols: dict[str, int] = {}
        samples: list[tuple[DeploymentEvent, bool]] = []
        for event_class in _EVENTS:
            self.symbols[event_class.TOPIC] = len(samples)
            kinds = (False, True) if event_class.TOPIC in SPECIFYING else (False,)
            samples += [(event_class.model_construct(), is_batch_job) for is_batch_job in kinds]
        reserved = len(samples)
        released, corrected, self.foreign = reserved + 1, reserved + 2, reserved + 3
        self.symbols |= {
            NameReserved.TOPIC: reserved, NameReleased.TOPIC: released, ClockCorrected.TOPIC: corrected
        }  # fmt: skip
        self.begin: list[int] = [ILLEGAL] * (self.foreign + 1)
        self.next: list[list[int]] = []
        self.names: list[str] = []

        deployments = [_Deployment(State.REQUESTED, kind) for kind in (False, True)]
        for number, (event, is_batch_job) in enumerate(samples):
            if isinstance(event, Requested):
                self.begin[number] = int(is_batch_job)
        for deployment in deployments:  # which grows
            follows: dict[int, int] = {}
            for number, (event, is_batch_job) in enumerate(samples):
                after = deployment.after(event, is_batch_job=is_batch_job)
                if after is None:
                    continue
                if after not in deployments:
                    deployments.append(after)
                follows[number] = deployments.index(after)
            self._add(str(deployment), follows)

        held = self._add("a name that is taken", {})
        free = self._add("a name that is free", {reserved: held})
        self.next[held][reserved], self.next[held][released] = held, free
        self.begin[reserved] = held
        alone = {"a correction of the clock": corrected, "an application's own event": self.foreign}
        for name, symbol in alone.items():
            standing = self._add(name, {})
            self.begin[symbol] = self.next[standing][symbol] = standing

    def _add(self, name: str, follows: dict[int, int]) -> int:
        """Add a standing by what may follow it, and return its number."""
        self.names.append(name)
        self.next.append([follows.get(symbol, ILLEGAL) for symbol in range(len(self.begin))])
        return len(self.next) - 1

    def symbol_of_topic(self, topic: str) -> int:
        """Return the symbol of a topic; `UNKNOWN` if it is like ours, and none of ours."""
        symbol = self.symbols.get(topic)
        if symbol is None:
            return UNKNOWN if topic.startswith(OUR_PREFIXES) else self.foreign
        return symbol

    def symbol(self, topic: str, state: bytes) -> int:
        """Return the symbol of an event; `UNKNOWN` as for its topic.

        Raises:
            ValueError: if the state does not decode.
        """
        symbol = self.symbol_of_topic(topic)
        if topic in SPECIFYING:
            try:
                symbol += _target_of(state)["target"]["type"] == BATCH_JOB
            except ValidationError as error:
                problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
                if problem["type"] == "json_invalid":
                    raise ValueError(problem["msg"]) from None
                raise ValueError("it does not say what kind of target it is for") from None
        return symbol

    def topic(self, symbol: int) -> str:
        """Return the topic that a symbol of ours is of."""
        return [topic for topic, number in self.symbols.items() if number <= symbol][-1]


@cache
def lifecycle_table() -> LifecycleTable:
    """Return the table."""
    return LifecycleTable()
