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
