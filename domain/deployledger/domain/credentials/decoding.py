"""A text as it reads on a screen and once it is decoded: percent, backslashes, HTML, one in the other.

``%74oken=x`` and ``{\\"token\\": \\"x\\"}`` hold what ``token=x`` and ``{"token": "x"}`` hold.
"""

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator

# What a terminal obeys, what nobody sees, and what merely looks unlike its ASCII form.
_UNSEEN = re.compile(
    r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)?|[@-_])?|\x9b[0-?]*+[ -/]*+[@-~]"
    r"|[^\x20-\x7e\t\r\n]"
)
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_BACKSLASH = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|quot|apos|amp|lt|gt|colon|equals|commat|sol);")
_LITERAL = {"n": "\n", "r": "\r", "t": "\t"}
_MOST_DECODINGS = 4


def _seen(match: re.Match[str]) -> str:
    character = match[0]
    if len(character) > 1 or unicodedata.category(character) in ("Cc", "Cf"):
        return ""
    return unicodedata.normalize("NFKC", character) if not character.isspace() else " "


def _percent(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _backslash(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if not code:
        return _LITERAL.get(match[4], match[4])
    number = int(code, 16)
    return chr(number) if number <= 0x10FFFF else "?"


def _entity(match: re.Match[str]) -> str:
    return html.unescape(match[0])[:1] or "?"


_DECODINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (_UNSEEN, _seen),
    (_PERCENT, _percent),
    (_BACKSLASH, _backslash),
    (_ENTITY, _entity),
)


def as_seen(text: str) -> str:
    """Return a text without invisible characters and codes for terminals, and full-width ones as ASCII."""
    return _UNSEEN.sub(_seen, text)


Origin = Callable[[int], int]


def views(text: str) -> Iterator[tuple[str, Origin]]:
    """Yield the text as it stands and decoded, each with what tells where its characters come from."""
    view: str = text
    origin: Origin = int
    yield view, origin
    for _ in range(_MOST_DECODINGS):
        is_changed = False
        for pattern, decode in _DECODINGS:
            decoded, inner = _decoded(view, pattern, decode)
            if decoded != view:
                view, origin = decoded, _chained(origin, inner)
                yield view, origin
                is_changed = True
        if not is_changed:
            return


def _chained(outer: Origin, inner: Origin) -> Origin:
    return lambda at: outer(inner(at))


def _decoded(
    text: str, pattern: re.Pattern[str], decode: Callable[[re.Match[str]], str]
) -> tuple[str, Origin]:
    parts: list[str] = []
    starts, sources = [0], [0]  # from starts[i] on, characters come from sources[i] on
    length = end = 0
    for match in pattern.finditer(text):
        kept, character = text[end : match.start()], decode(match)
        parts += (kept, character)
        starts += (length + len(kept), length + len(kept) + len(character))
        length, end = length + len(kept) + len(character), match.end()
        sources += (match.start(), end)
    if not parts:
        return text, int

    def origin(at: int) -> int:
        place = bisect_right(starts, at) - 1
        return sources[place] + at - starts[place]

    return "".join((*parts, text[end:])), origin
