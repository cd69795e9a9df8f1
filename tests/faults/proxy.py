"""A proxy before a PostgreSQL server that loses what is on the way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import psycopg


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
        port = self._listener.getsockname()[1]
        query = urlencode({"sslmode": "disable", "gssencmode": "disable"})
        self.url = f"postgresql://{user}@127.0.0.1:{port}{urlsplit(url).path}?{query}"
        self.lost = 0
        self._requests_to_lose = 0
        self._answers_to_lose = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_requests(self, number: int) -> None:
        """Cut the next connections that send COMMIT, before the server hears of it."""
        self._requests_to_lose = number

    def lose_answers(self, number: int) -> None:
        """Cut the next connections whose transaction the server has committed, before they are told."""
        self._answers_to_lose = number

    def close(self) -> None:
        """Cut every connection."""
        self._listener.close()
        for it in self._sockets:
            it.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            for source, sink, loses in (
                (client, server, self._loses_request),
                (server, client, self._loses_answer),
            ):
                threading.Thread(target=self._pass_on, args=(source, sink, loses), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, loses: object) -> None:
        assert callable(loses)
        try:
            while data := source.recv(1 << 16):
                if loses(data):
                    break
                sink.sendall(data)
        except OSError:
            pass
        for it in (source, sink):
            try:
                it.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _loses_request(self, data: bytes) -> bool:
        with self._lock:
            loses = self._requests_to_lose > 0 and b"COMMIT\x00" in data
            self._requests_to_lose -= loses
            self.lost += loses
        return loses

    def _loses_answer(self, data: bytes) -> bool:
        # The server's CommandComplete, which it sends once the transaction is stored.
        with self._lock:
            loses = self._answers_to_lose > 0 and b"COMMIT\x00" in data
            self._answers_to_lose -= loses
            self.lost += loses
        return loses


@contextmanager
def losing_proxy(url: str) -> Iterator[LosingProxy]:
    """Enter with a proxy before the server of a database."""
    proxy = LosingProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
