"""Results of verifying evidence: checks, and problems with their locations."""

from dataclasses import dataclass, field

MOST_PROBLEMS = 100
"""How many problems of one check are kept; the others are counted."""


@dataclass(frozen=True)
class EvidenceProblem:
    """Something that is wrong, and where.

    Attributes:
        member: the file in the evidence, or an empty string.
        line: which line of it, counted from 1, or None.
        message: what is wrong.
    """

    member: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.member if self.line is None else f"{self.member} line {self.line}"
        return f"{place}: {self.message}" if place else self.message


@dataclass
class Check:
    """One thing that was to be checked.

    Attributes:
        what: what, in a few words.
        count: how many of it were looked at.
        is_done: whether it could be checked to its end.
        problems: what is wrong, the first 100.
        problem_count: how many there are.
        results: what was found to be so, where that has a name of its own.
    """

    what: str
    count: int = 0
    is_done: bool = False
    problems: list[EvidenceProblem] = field(default_factory=list)
    problem_count: int = 0
    results: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether it was checked, and nothing is wrong."""
        return self.is_done and not self.problem_count

    @property
    def state(self) -> str:
        """``passed``, ``failed`` or ``not checked``."""
        if self.is_passed:
            return "passed"
        return "failed" if self.problem_count else "not checked"

    def add(self, member: str, message: str, line: int | None = None) -> None:
        """Add a problem."""
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(EvidenceProblem(member, line, message))
