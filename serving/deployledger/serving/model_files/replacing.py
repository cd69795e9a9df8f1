"""Puts stored files in their place, and what is damaged out of it; what links lead to is never touched."""

from itertools import count
from pathlib import Path

from deployledger.service.private_files import make_folder
from deployledger.serving.model_files.reading import exists


def put(staged: Path, target: Path, *, aside: Path) -> None:
    """Give a complete file its final name; a folder that is in its place is moved to ``aside``.

    Raises:
        OSError: it cannot be moved there.
    """
    try:
        staged.replace(target)
    except IsADirectoryError:
        move_aside(target, aside)
        staged.replace(target)


def move_aside(path: Path, target: Path) -> Path:
    """Move something damaged to ``target``, or beside it if that is taken, and return where it is now.

    Whoever calls it holds the lock of the store.

    Raises:
        OSError: it cannot be moved.
    """
    make_folder(target.parent)
    free = target
    for number in count(2):
        if not exists(free):
            break
        free = target.with_name(f"{target.name}.{number}")
    path.rename(free)
    return free
