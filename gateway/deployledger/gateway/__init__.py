"""The process between a deployment's public port and its replicas.

It is started as ``python -m deployledger.gateway``. It parses the HTTP/1.1 messages in both directions, holds
the clients' connections and connections of its own to the replicas, and forwards each request to the replica
with the least work. That is how an update leaves no request unanswered, not even of a client that keeps its
connection open:

1. ``begin`` starts the replicas of the new revision and ``ready`` waits for them.
2. ``switch`` sends every further request to them.
3. ``stop`` waits until the older revision's replicas have answered what they have. Then come SIGTERM and,
   after a grace period, SIGKILL.

| module | what it is about |
|---|---|
| `request_parser`, `request`, `headers` | what clients send, and what is buffered of it |
| `limits` | what is accepted of it |
| `upstream`, `backend` | connections to servers, and their load |
| `forwarding` | one client's connection, from request to response |
| `replica`, `revision`, `gateway` | processes: start, restart, switch, drain |
| `control`, `messages`, `files` | what the orchestrator sees |

The gateway needs httptools, and uses uvloop where it is installed. Orchestrators use the names here.
"""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "files": ("PROGRAMS", "GatewayFiles", "earlier"),
        "limits": ("Limits",),
        "messages": ("PARENT_FD", "PORT", "GatewayError", "RevisionSpec"),
        "ports": ("LOOPBACK", "bind"),
    },
)
