"""Printing for people: all of it comes through here, and no text from outside acts on a terminal."""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from deployledger.adapters.cli import streams
from deployledger.domain.visible import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

_WIDTH_OF_A_PIPE = 10_000
"""Piped output is never cut to a width."""

_ErrorInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


def shown(value: object, style: str = "") -> Text:
    """Return a foreign text on one line, for a table or a list."""
    return Text(visible(str(value)), style=style)


def shown_lines(value: object, style: str = "") -> Text:
    """Return a foreign text that may have several lines, for where they cannot be taken for ours."""
    return Text(visible_lines(str(value)), style=style)


def assembled(*parts: str | Text | tuple[str, str]) -> Text:
    """Return a line of texts that may be foreign, some with a style."""
    return Text.assemble(
        *(
            part
            if isinstance(part, Text)
            else shown(part)
            if isinstance(part, str)
            else shown(part[0], part[1])
            for part in parts
        )
    )


class Terminal(Console):
    """Prints on a standard stream. What gets through to it in text is spelled out, not obeyed."""

    def __init__(self, *, stderr: bool = False) -> None:
        file = cast("IO[str]", streams.remarks() if stderr else streams.answer())
        super().__init__(file=file, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = _WIDTH_OF_A_PIPE

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is printed for a string; also its width is that of what is printed."""
        return super().render_str(visible_lines(text), **options)

    def render(
        self, renderable: "RenderableType", options: "ConsoleOptions | None" = None
    ) -> "Iterable[Segment]":
        """Yield what is printed for anything else: no control characters but Rich's own, and no links."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control:
                yield segment
                continue
            if style is not None and style.link:
                style = style.update_link(None)
            yield Segment(text if text.isprintable() or text == "\n" else visible_lines(text), style)


class LogFormatter(logging.Formatter):
    """Writes each record on one line, and the traceback of an error below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: _ErrorInfo) -> str:  # noqa: N802
        """Return the traceback."""
        return visible_lines(super().formatException(ei))
