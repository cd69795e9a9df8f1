"""The header fields of messages that are forwarded (RFC 9110, section 7.6.1)."""

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values."""

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# What says where a message ends, and whom it is for, is not dropped because a Connection field names it.
_ALWAYS_FORWARDED = frozenset((b"content-length", b"host"))


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of the fields with a name."""
    return [value for each, value in headers if each == name]


def end_to_end(headers: Headers) -> Headers:
    """Return the fields that are not for the next hop alone."""
    dropped = _HOP_BY_HOP
    for value in values_of(headers, b"connection"):
        dropped |= {token.strip().lower() for token in value.split(b",")} - _ALWAYS_FORWARDED
    return [(name, value) for name, value in headers if name not in dropped]


def serialize(start_line: bytes, headers: Headers) -> bytes:
    """Return the head of a message."""
    lines = [b"%b: %b\r\n" % field for field in headers]
    return b"%b\r\n%b\r\n" % (start_line, b"".join(lines))


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body in the chunked transfer coding; the empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
