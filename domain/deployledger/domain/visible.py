"""Safe display of foreign text: no part of it controls the terminal or stays invisible.

Names, tags, actors, URIs, messages and log lines come from outside. On a terminal or a page, control
characters would move the cursor, bidirectional controls would reorder what stands around them, and
characters without width would make two different texts look the same.
"""

import re
import unicodedata

_MOST_MARKS = 4
"""How many marks may be above and below one character: more run into the lines around it."""

# Those that Python takes for printable although they leave no mark (Default_Ignorable_Code_Point of
# https://www.unicode.org/reports/tr44/, and the blank Braille pattern). The two variation selectors that
# choose between an emoji and a letter are left as they are.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)
_MARKS = ("Mn", "Me")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    r"""Return a text on one line, with what cannot be seen in it spelled as in JSON (``\n``, ``\u001b``)."""
    if text.isascii() and text.isprintable():
        return text
    marks = 0
    shown: list[str] = []
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in _MARKS else 0
        is_seen = character.isprintable() and marks <= _MOST_MARKS and not _UNSEEN.match(character)
        shown.append(character if is_seen else _spelled(character))
    return "".join(shown)


def visible_lines(text: str) -> str:
    """Return a text of several lines, each as `visible` returns it, and with spaces for its tabs."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(visible(line.expandtabs()) for line in lines)


def _spelled(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
