"""What a gateway accepts from clients, and its responses to what it refuses."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from http import HTTPStatus
from typing import Any, Self

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of one revision's endpoint; times are in seconds.

    Each is a setting: `max_body_bytes` is ``DEPLOYLEDGER_SERVING_MAX_BODY_BYTES``, and so on.

    Attributes:
        max_body_bytes: the largest body of a request, as sent and, in model servers, decompressed.
        max_head_bytes: the largest request line and header fields together.
        max_connections: how many clients may be connected at the same time.
        head_timeout: how long a client may take to send the head of a request.
        body_timeout: how long a body, of a request or a response, may make no progress because of the client.
        idle_timeout: how long a connection without a request stays open.
        response_timeout: how long a model may take until its response begins; None for any time.
    """

    max_body_bytes: int = 100 * _MEBIBYTE
    max_head_bytes: int = 64 * 1024
    max_connections: int = 2000
    head_timeout: float = 20.0
    body_timeout: float = 60.0
    idle_timeout: float = 120.0
    response_timeout: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the limits that this or another version wrote; a missing key has its default."""
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})


class RefusedError(Exception):
    """A request that is answered by the gateway itself.

    Attributes:
        response: the whole response, after which the connection is closed.
    """

    def __init__(self, status: HTTPStatus, message: str, limit: str | None = None) -> None:
        if limit is not None:
            message += f" DEPLOYLEDGER_SERVING_{limit.upper()} sets this limit."
        super().__init__(message)
        body = json.dumps({"error": message}).encode()
        retry = b"retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else b""
        self.response = (
            b"HTTP/1.1 %d %b\r\nconnection: close\r\n%bcontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, status.phrase.encode(), retry, len(body), body)
        )
