"""Runs a server that knows nothing of its gateway, and kills it when the gateway is gone.

``python -m deployledger.adapters.local.gateway.tether --parent-fd FD -- COMMAND…`` must lead its process
group: when the pipe behind FD closes, the whole group is killed.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Run the command; return its exit status, or 128 and the number of the signal that ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    # SIGTERM goes to the whole group; this process stays until the server has ended. A handler, because an
    # ignored signal would stay ignored in the server too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_kill_group_at_eof, args=[arguments.parent_fd], daemon=True).start()
    status = subprocess.run(arguments.command, check=False).returncode
    return status if status >= 0 else 128 - status


def _kill_group_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
