"""Memory management of processes that pass on large bodies."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MEBIBYTE = 1024 * 1024


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed memory, also that of buffers of up to 4 MiB, for the next body.

    By default it returns a large buffer to the kernel as soon as it is freed, and the page faults of the next
    one take longer than copying the body. Buffers of 10 MiB that are kept, too, would fragment the memory.
    Nothing happens with another C library.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 4 * _MEBIBYTE)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * _MEBIBYTE)
