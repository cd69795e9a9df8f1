"""A proxy before a PostgreSQL server that loses what is on the way, keeps it for itself, or is down."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import psycopg

_ENDS_OF_TRANSACTIONS = (b"COMMIT\x00", b"\x00deployledger_append\x00")
"""What a client sends last in a transaction: the command, or the binding of the function that appends."""


class LosingProxy:
    """Passes everything on, except when it is told to lose the end of a transaction.

    Attributes:
        url: the database's URL by way of the proxy.
        lost: how many connections were cut.
    """

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as session:
            self._server = f"{session.info.host}/.s.PGSQL.{session.info.port}"
            user = session.info.user
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = port = self._listener.getsockname()[1]
        query = urlencode({"sslmode": "disable", "gssencmode": "disable"})
        self.url = f"postgresql://{user}@127.0.0.1:{port}{urlsplit(url).path}?{query}"
        self.lost = 0
        self._requests_to_lose = 0
        self._answers_to_lose = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._flowing = threading.Event()
        self._flowing.set()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def lose_requests(self, number: int) -> None:
        """Cut the next connections that send COMMIT, before the server hears of it."""
        self._requests_to_lose = number

    def lose_answers(self, number: int) -> None:
        """Cut the next connections whose transaction the server has committed, before they are told."""
        self._answers_to_lose = number

    def swallow(self) -> None:
        """Take connections and what is sent, and pass nothing on, as a frozen server does."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on what was swallowed, and go on."""
        self._flowing.set()

    def go_down(self) -> None:
        """Refuse connections, and cut those that there are."""
        _cut(self._listener, *self._sockets)
        self._listener.close()

    def come_up(self) -> None:
        """Take connections again."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection."""
        self._flowing.set()
        self._listener.close()
        for it in self._sockets:
            it.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            ending = threading.Event()
            for work in (self._pass_requests_on, self._pass_answers_on):
                threading.Thread(target=work, args=(client, server, ending), daemon=True).start()

    def _pass_requests_on(
        self, client: socket.socket, server: socket.socket, ending: threading.Event
    ) -> None:
        for data in _received(client):
            self._flowing.wait()
            if any(it in data for it in _ENDS_OF_TRANSACTIONS):
                if self._loses("_requests_to_lose"):
                    break
                ending.set()
            if not _sent(server, data):
                break
        _cut(client, server)

    def _pass_answers_on(self, client: socket.socket, server: socket.socket, ending: threading.Event) -> None:
        for data in _received(server):
            self._flowing.wait()
            # The server answers once the transaction is stored.
            if ending.is_set():
                ending.clear()
                if self._loses("_answers_to_lose"):
                    break
            if not _sent(client, data):
                break
        _cut(client, server)

    def _loses(self, what: str) -> bool:
        with self._lock:
            left: int = getattr(self, what)
            loses = left > 0
            setattr(self, what, left - loses)
            self.lost += loses
        return loses


def _received(source: socket.socket) -> Iterator[bytes]:
    try:
        while data := source.recv(1 << 16):
            yield data
    except OSError:
        return


def _sent(sink: socket.socket, data: bytes) -> bool:
    try:
        sink.sendall(data)
    except OSError:
        return False
    return True


def _cut(*sockets: socket.socket) -> None:
    for it in sockets:
        try:
            it.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


@contextmanager
def losing_proxy(url: str) -> Iterator[LosingProxy]:
    """Enter with a proxy before the server of a database."""
    proxy = LosingProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
