"""Prints what a check of a database found: a mark, a sentence, and what to do next."""

from typing import TYPE_CHECKING

from deployledger.adapters.cli import marks
from deployledger.adapters.cli.session import escaped
from deployledger.domain.sentences import sentence

if TYPE_CHECKING:
    from deployledger.adapters.cli.session import Session
    from deployledger.domain.findings import Finding

_MARKS = {"ok": marks.DONE, "warning": marks.WARNING, "problem": marks.FAILED}


def print_finding(session: "Session", finding: "Finding") -> None:
    """Print a finding on standard output."""
    lines = [f"{_MARKS[finding.outcome]} {escaped(sentence(finding.message))}"]
    if finding.hint:
        lines.append(f"  {escaped(sentence(finding.hint))}")
    for line in lines:
        session.stdout.print(line, highlight=False, soft_wrap=True)
