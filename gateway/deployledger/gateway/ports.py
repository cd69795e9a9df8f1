"""The public ports of a deployment, and the private ones of its replicas."""

import asyncio
import errno
import socket
import sys
from collections.abc import Callable

from deployledger.gateway.messages import GatewayError

LOOPBACK = "127.0.0.1"
"""Where replicas and the control socket listen."""

_BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket, which does not listen yet; port 0 is any free one.

    Raises:
        GatewayError: the port is in use, is not for this user, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise GatewayError("invalid_configuration", f"The host {host!r} has no address: {error}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # Lets a new gateway have the port of a killed one whose connections linger, but never two listen.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise bind_error(error, host, port) from error
    return listener


def bind_error(error: OSError, host: str, port: int) -> GatewayError:
    """Return the typed error for why a port could not be had."""
    if error.errno == errno.EADDRINUSE:
        return GatewayError("port_in_use", f"Port {port} on {host} is in use by another program.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return GatewayError("invalid_configuration", f"This user may not listen on port {port} of {host}.")
    return GatewayError("invalid_configuration", f"Port {port} on {host} cannot be opened: {error.strerror}.")


class Listeners:
    """Public ports: claimed when a revision begins, open from the moment that traffic may come."""

    def __init__(self, host: str, connection: Callable[[], asyncio.Protocol]) -> None:
        self._host = host
        self._connection = connection
        self._claimed: dict[int, socket.socket] = {}
        self._open: dict[int, asyncio.Server] = {}
        self._opening = asyncio.Lock()

    def claim(self, port: int, *, fixed: bool) -> int:
        """Bind ``port`` and return it; if it is taken and not ``fixed``, another one.

        Raises:
            GatewayError: the port is unavailable.
        """
        if port in self._claimed or port in self._open:
            return port
        try:
            listener = bind(self._host, port)
        except GatewayError:
            if fixed:
                raise
            listener = bind(self._host, 0)
        claimed: int = listener.getsockname()[1]
        self._claimed[claimed] = listener
        return claimed

    async def open(self, port: int) -> None:
        """Accept connections on a claimed port.

        Raises:
            GatewayError: another program began to listen there after the claim, or it was released.
        """
        async with self._opening:
            if port in self._open:
                return
            listener = self._claimed.get(port)
            if listener is None:
                raise GatewayError("server_exited", f"Port {port} has been released.")
            try:
                self._open[port] = await asyncio.get_running_loop().create_server(
                    self._connection, sock=listener, backlog=_BACKLOG
                )
            except OSError as error:
                raise bind_error(error, self._host, port) from error
            self._claimed.pop(port, None)

    def keep(self, ports: set[int]) -> None:
        """Close and release every port but these; existing connections continue."""
        for port in self._claimed.keys() - ports:
            self._claimed.pop(port).close()
        for port in self._open.keys() - ports:
            self._open.pop(port).close()


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
