"""Messages and hints as sentences of their own: parts of them come from outside, and end as they like."""

_ENDS = ".?!:…"
_CLOSING = "\"'`)]”’"


def sentence(text: str) -> str:
    """Return a text with a full stop, unless it ends a sentence already or has several lines, as logs do."""
    text = text.rstrip()
    if not text or "\n" in text or text.rstrip(_CLOSING)[-1:] in _ENDS:
        return text
    return f"{text}."


def with_hint(message: str, hint: str) -> str:
    """Return what happened, followed by what to do; a message of several lines has the hint below it."""
    if not hint.strip():
        return message.strip()
    between = "\n" if "\n" in message.strip() else " "
    return f"{sentence(message)}{between}{sentence(hint)}"


def ordinal(number: int) -> str:
    """Return a number from 1 on as an ordinal: 1st, 2nd, 3rd, 4th, …, 11th."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else suffix}"
