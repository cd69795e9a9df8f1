"""Layout for any terminal width: labels with values, and texts cut at the front."""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from deployledger.domain.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LEAST_VALUE = 22


def table_of(
    *headings: str, wrapped: "Collection[str]" = (), right: "Collection[str]" = (), least: int | None = None
) -> Table:
    """Return a table without lines but one below the headings.

    Args:
        wrapped: the columns in which text may go on below; others are never cut.
        right: the columns of numbers.
        least: how wide the last column is at least.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(
            heading,
            no_wrap=heading not in wrapped,
            overflow="fold",
            justify="right" if heading in right else "left",
            min_width=least if heading == headings[-1] else None,
        )
    return table


class Labelled:
    """Labels and values, a line each; a value that is too long continues below its beginning.

    Whole digests and values that must not be wrapped stay on one line, so that they can be copied. Such a
    value stands below its label where there is no room beside it.

    Args:
        lines: labels, and values in which nothing acts on a terminal.
        indent: how many spaces stand before a label.
        style: the style of the labels.
        width: how wide the labels are; None is as wide as the longest one.
    """

    def __init__(
        self,
        lines: "Sequence[tuple[str, Text]]",
        *,
        indent: int = 0,
        style: str = "bold",
        width: int | None = None,
    ) -> None:
        self._lines = lines
        self._indent = indent
        self._style = style
        self._width = max((len(label) for label, _ in lines), default=0) if width is None else width

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        begin = self._indent + self._width + (2 if self._width else 0)
        for label, value in self._lines:
            room = max(options.max_width - begin, _LEAST_VALUE)
            is_whole = value.no_wrap or _DIGEST.fullmatch(value.plain)
            if value.no_wrap and label and value.cell_len > room:
                yield Text(" " * self._indent + label, self._style)
                yield Text.assemble(" " * (self._indent + 2), value, no_wrap=True, overflow="ignore")
                continue
            for number, line in enumerate(
                [value] if is_whole else value.wrap(console, room, overflow="fold")
            ):
                line.rstrip()
                head = " " * self._indent + (label if number == 0 else "")
                yield Text.assemble((head.ljust(begin), self._style), line, no_wrap=True, overflow="ignore")


def ending(text: str, width: int) -> str:
    """Return a foreign text on one line; where there is no room for all of it, its end."""
    text = visible(text)
    return text if cell_len(text) <= width else f"…{set_cell_size(text[::-1], max(width - 1, 0))[::-1]}"
