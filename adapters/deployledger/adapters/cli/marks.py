"""The marks and colours of outcomes, the same in all output.

A mark can be read without its colour, and the word beside it without the mark. Colours are the terminal's own
(ANSI names), so that they suit light and dark backgrounds; nothing is dimmed. Where a stream cannot encode a
mark, `streams` writes an ASCII character in its place.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from deployledger.domain.responses import DeploymentStatusResponse


@dataclass(frozen=True)
class Mark:
    """A sign and its colour.

    Attributes:
        sign: one character.
        style: the name of an ANSI colour, or nothing.
    """

    sign: str
    style: str = ""

    def __str__(self) -> str:
        """Return the sign in Rich's markup."""
        return f"[{self.style}]{self.sign}[/]" if self.style else self.sign

    def before(self, text: "str | Text", *, is_coloured: bool = False) -> "Text":
        """Return a text with the mark before it.

        Args:
            text: what is marked; foreign text has been made visible before.
            is_coloured: whether a plain text has the mark's colour, too.
        """
        from rich.text import Text

        words = Text(text, style=self.style if is_coloured else "") if isinstance(text, str) else text
        return Text.assemble((self.sign, self.style), " ", words)


DONE = Mark("✓", "green")
FAILED = Mark("✗", "red")
WARNING = Mark("!", "yellow")
UNKNOWN = Mark("?", "yellow")
IN_PROGRESS = Mark("•", "yellow")
OFF = Mark("–")
"""A neutral outcome: something that was stopped on request, or cannot be checked."""

_OF_STATUS = {
    "active": DONE,
    "creating": IN_PROGRESS,
    "updating": IN_PROGRESS,
    "deleting": IN_PROGRESS,
    "failed": FAILED,
    "delete_failed": FAILED,
}


def of_status(deployment: "DeploymentStatusResponse") -> Mark:
    """Return the mark of a deployment's status; a completed job is told from a cancelled one."""
    if deployment.state == "completed":
        return DONE
    is_running_job = deployment.status == "active" and deployment.progress is not None
    return IN_PROGRESS if is_running_job else _OF_STATUS.get(deployment.status, OFF)
