"""Private ports of replicas."""

import socket
import sys

LOOPBACK = "127.0.0.1"


class ReservedPort:
    """A port on 127.0.0.1 that nobody else is given while a replica starts and restarts on it.

    Linux lets a server that sets SO_REUSEADDR (as uvicorn does) listen on a port to which another socket,
    which does not listen, is bound likewise; and it hands such a port to nobody who asks for any free one.
    Elsewhere the port is free again at once, and most probably still is when the replica takes it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        # In this order: a socket that allows reuse beforehand might be given a port that is reserved already.
        self._socket.bind((LOOPBACK, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def release(self) -> None:
        """Give the port up."""
        self._socket.close()
