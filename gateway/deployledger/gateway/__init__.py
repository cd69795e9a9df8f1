"""The process between a deployment's public port and its replicas.

It is started as ``python -m deployledger.gateway``. It forwards TCP connections, so it knows
nothing of the requests in them, except that they are requests and answers in turn (which HTTP/1.1 is): a
connection on which an answer was seen last, and nothing for a while, may go on at another replica. That is
how an update leaves no request unanswered, not even of a client that keeps its connections open:

1. ``begin`` starts the replicas of the new revision and ``ready`` waits for them.
2. ``switch`` sends every new connection to them. The older revision's connections go on as they are.
3. ``stop`` drains the older revision: its servers are told to close each connection with the next answer
   (SIGUSR1), and connections that are quiet are moved to the new revision without the client noticing; of a
   server that cannot be told, each connection is moved when its next request begins.
   Then come SIGTERM and, after a grace period, SIGKILL.

The gateway needs nothing but the standard library and h11. Orchestrators talk to it by the names here.
"""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "files": ("PROGRAMS", "GatewayFiles", "earlier"),
        "messages": ("PARENT_FD", "PORT", "GatewayError", "RevisionSpec"),
        "ports": ("LOOPBACK", "bind"),
    },
)
