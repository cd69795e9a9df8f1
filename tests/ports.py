"""TCP ports that a server of a test may have."""

import os
import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port that is free on the loopback interface, below those that the system gives to connections.

    One of the system's own could be in use again by the time the server that it is for has started.
    """
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    ports = random.Random(os.urandom(8))
    while True:
        port = ports.randrange(10_000, max(first, 10_100))
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
