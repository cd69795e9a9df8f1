"""Runs a server that knows nothing of its gateway, and kills it when the gateway is gone.

``python -m deployledger.gateway.tether --parent-fd FD -- COMMAND…`` must lead its process
group: when the pipe behind FD closes, the whole group is killed. Such a server does not check what it loads
either: that is done here, right before it starts.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading

from deployledger.serving import DAMAGED_STATUS, ModelDamagedError, ModelFiles

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_CAP_DAC_OVERRIDE = 1  # linux/capability.h


def main() -> int:
    """Run the command if the model is undamaged.

    Return its exit status, 128 and the number of the signal that ended it, or `DAMAGED_STATUS`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("command", nargs="+")
    ModelFiles.add_arguments(parser)
    arguments = parser.parse_args()

    # SIGTERM goes to the whole group; this process stays until the server has ended. A handler, because an
    # ignored signal would stay ignored in the server too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_kill_group_at_eof, args=[arguments.parent_fd], daemon=True).start()
    files = ModelFiles.from_arguments(arguments)
    if files is not None:
        try:
            files.check()
        except ModelDamagedError as error:
            sys.stdout.write(f"{error}\n")
            return DAMAGED_STATUS
    _lose_the_right_to_write_read_only_files()
    status = subprocess.run(arguments.command, check=False).returncode
    return status if status >= 0 else 128 - status


def _lose_the_right_to_write_read_only_files() -> None:
    """Let what is started respect the modes of files also as root: a model may be links to the stored one.

    With `CAP_DAC_OVERRIDE` out of the bounding set no program that is executed has it (capabilities(7)).
    """
    if sys.platform == "linux" and os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def _kill_group_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
