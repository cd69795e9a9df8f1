"""Findings of a database check."""

import enum
from dataclasses import asdict, dataclass
from typing import Any


class Outcome(enum.StrEnum):
    """The outcome of a check: fine; worth knowing; or an answer or a proof cannot be relied on."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        check: which check it was, in one word that programs can compare.
        outcome: its outcome.
        message: what was found, in one sentence.
        hint: what to do next, or an empty string.
    """

    check: str
    outcome: Outcome
    message: str
    hint: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether an answer or a proof cannot be relied on."""
        return self.outcome is Outcome.PROBLEM

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {**asdict(self), "outcome": self.outcome.value}
