"""What a check of a database found, as people read it: a mark, a sentence, and what to do next."""

from typing import TYPE_CHECKING

from deployledger.adapters.cli import marks
from deployledger.domain.sentences import sentence

if TYPE_CHECKING:
    from deployledger.adapters.cli.session import Session
    from deployledger.domain.findings import Finding

_MARKS = {"ok": marks.DONE, "warning": marks.WARNING, "problem": marks.FAILED}


def say_finding(session: "Session", finding: "Finding") -> None:
    """Print a finding on standard output."""
    session.say(_MARKS[finding.outcome].before(sentence(finding.message)))
    if finding.hint:
        session.say(f"  {sentence(finding.hint)}")
