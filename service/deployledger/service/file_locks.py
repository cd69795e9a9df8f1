"""Locks between processes, on files (flock(2)): the kernel frees them when their holder dies, in any way."""

import fcntl
import os
from pathlib import Path

from deployledger.service.private_files import open_file


def try_lock(path: Path) -> int | None:
    """Lock a file, made if missing, and return the descriptor that holds the lock; None if another has it.

    Closing the descriptor, in every process that inherited it, frees the lock.

    Raises:
        OSError: if the file cannot be opened or made.
    """
    while True:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file since it was opened: that lock would guard nothing.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
