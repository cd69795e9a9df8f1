"""HTML from templates that a designer can read: what is filled in is escaped, unless it is HTML itself.

The standard library does this: the verifier makes the report again, and all evidence says that nothing but
cryptography is needed for that (docs/decisions/0039).
"""

import re
from collections.abc import Iterable
from functools import cache
from html import escape
from string import Template

from deployledger.audit.evidence.texts import text

_NAME = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)


class Html(str):
    """A text that is HTML, which is filled in as it is."""

    __slots__ = ()


def fill(name: str, **values: object) -> Html:
    """Return one of the templates of ``report.html``, with its values filled in."""
    return Html(_templates()[name].substitute({key: html(value) for key, value in values.items()}))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Return several parts, each escaped unless it is HTML."""
    return Html(between.join(map(html, parts)))


def html(value: object) -> Html:
    """Return a value as HTML; what cannot be seen, or changes the direction, is spelled out."""
    if isinstance(value, Html):
        return value
    shown = "".join(
        character if character.isprintable() or character == "\n" else f"\\u{ord(character):04x}"
        for character in str(value)
    )
    return Html(escape(shown))


@cache
def _templates() -> dict[str, Template]:
    _, *parts = _NAME.split(text("report.html"))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: Template(content.removesuffix("\n")) for name, content in pairs}
