"""Locks that the kernel gives up when their process dies."""

import fcntl
import os
from pathlib import Path

from deployledger.service.private_files import open_file


def try_flock(path: Path) -> int | None:
    """Return the descriptor of the file at ``path``, locked, or None if somebody else has it."""
    while True:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner removes the file: what was locked may no longer be the file at that path.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            os.close(descriptor)
