"""One request and its response as they are forwarded: what is in flight, and what may be repeated."""

from dataclasses import dataclass

import h11

LARGEST_REPEATED_REQUEST = 4 * 1024 * 1024
"""The largest request, in bytes, that is buffered to be repeated on another server."""

REPEATED_REQUESTS_MEMORY = 64 * 1024 * 1024
"""The most bytes that a gateway buffers for all requests in flight."""

_LONGEST_HEAD = 64 * 1024


@dataclass
class RequestMemory:
    """The memory for requests in flight, over all connections of a gateway.

    Attributes:
        left: how many bytes are free.
    """

    left: int = REPEATED_REQUESTS_MEMORY


class Exchange:
    """Parses what client and server send each other, from one request to the end of its response.

    What cannot be read as HTTP/1.1 (another protocol, a malformed request) is opaque: it is passed on all the
    same, but nothing shows where a message ends, so nothing of it is ever sent again.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._request = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        self._answer = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._has_begun = False
        self._has_answer = False
        self._awaits_answer = False
        self.is_opaque = False
        self.is_too_large = False

    @property
    def is_open(self) -> bool:
        """Whether a request has begun whose response is not complete."""
        return self._awaits_answer if self.is_opaque else self._has_begun

    @property
    def is_unanswered(self) -> bool:
        """Whether a request has begun of whose answer there is no byte yet; "100 Continue" is none."""
        return self._has_begun and not self._has_answer and not self.is_opaque

    @property
    def is_cut(self) -> bool:
        """Whether a response has begun and is known to be incomplete."""
        return (
            self._has_answer
            and not self.is_opaque
            and self._answer.their_state not in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        )

    @property
    def is_over(self) -> bool:
        """Whether request and response are complete, and the connection can take another request."""
        return (
            not self.is_opaque
            and self._request.their_state is h11.DONE
            and self._answer.their_state is h11.DONE
        )

    @property
    def kept(self) -> list[bytes]:
        """The request so far, to be repeated; complete unless `is_too_large` or `is_opaque`."""
        return list(self._kept)

    def following(self) -> "Exchange":
        """Return the next exchange of the connection, with what was already received of it."""
        self.release()
        following = Exchange(self._memory)
        sent, answered = bytes(self._request.trailing_data[0]), bytes(self._answer.trailing_data[0])
        if sent:
            following.sent(sent)
        if answered:
            following.answered(answered)
        return following

    def release(self) -> None:
        """Discard the buffered request."""
        self._kept.clear()
        self._memory.left += self._kept_bytes
        self._kept_bytes = 0

    def sent(self, data: bytes) -> None:
        """Process what the client sent."""
        self._has_begun = True
        self._awaits_answer = True
        if self.is_opaque:
            return
        self._keep(data)
        try:
            self._request.receive_data(data)
            while True:
                event = self._request.next_event()
                if isinstance(event, h11.Request):
                    self._answer.send(event)  # so that it knows how the response's end is framed
                elif event is h11.NEED_DATA or event is h11.PAUSED:
                    return
        except h11.ProtocolError:
            self._give_up()

    def answered(self, data: bytes) -> None:
        """Process what the server sent."""
        self._awaits_answer = False
        if self.is_opaque:
            return
        try:
            self._answer.receive_data(data)
            while True:
                event = self._answer.next_event()
                if isinstance(event, h11.Response):
                    self._has_answer = True
                elif isinstance(event, h11.EndOfMessage) or event is h11.NEED_DATA:
                    break
                elif event is h11.PAUSED:  # the protocol is switched, or there is more than the answer
                    self._give_up()
                    return
        except h11.ProtocolError:
            self._give_up()
            return
        if self._answer.trailing_data[0]:  # the first bytes of its head
            self._has_answer = True
        if self._has_answer:
            self.release()

    def answer_ended(self) -> None:
        """Process the end of the server's stream, which ends some responses."""
        if self.is_opaque or not self._has_answer:
            return
        try:
            self._answer.receive_data(b"")
            self._answer.next_event()
        except h11.ProtocolError:
            return  # it is cut

    def _keep(self, data: bytes) -> None:
        if self._has_answer or self.is_too_large:
            return
        if self._kept_bytes + len(data) > LARGEST_REPEATED_REQUEST or len(data) > self._memory.left:
            self.is_too_large = True
            self.release()
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        self._memory.left -= len(data)

    def _give_up(self) -> None:
        self.is_opaque = True
        self.release()
