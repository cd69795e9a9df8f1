"""Puts something else than a regular file, or than a folder, where a store has one."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from deployledger.service.files.staging import remove

USERS = {"thesis.txt": b"years of work", "sub/model.onnx": b"another model"}


def users_folder(beside: Path) -> Path:
    """Return a folder of the user's, which links lead to; nothing in it may ever change."""
    folder = beside / "users"
    for name, content in USERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o640)
    folder.chmod(0o750)
    return folder


def is_untouched(folder: Path) -> bool:
    """Return whether the user's folder is as it was made."""
    files = {str(it.relative_to(folder)): it for it in folder.rglob("*") if it.is_file()}
    return (
        {name: path.read_bytes() for name, path in files.items()} == USERS
        and all(path.stat().st_mode & 0o777 == 0o640 for path in files.values())
        and folder.stat().st_mode & 0o777 == 0o750
    )


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_RDONLY)  # the whole path may be too long for a socket
        try:
            server.bind(f"/proc/self/fd/{folder}/s")
        finally:
            os.close(folder)
    (path.parent / "s").rename(path)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("else")


KINDS: dict[str, Callable[[Path, Path], object]] = {
    "a pipe": lambda path, _: os.mkfifo(path),
    "a socket": lambda path, _: _socket(path),
    "a link to a file": lambda path, users: path.symlink_to(users / "thesis.txt"),
    "a link to a folder": lambda path, users: path.symlink_to(users),
    "a link to nothing": lambda path, _: path.symlink_to("nothing"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a folder": lambda path, _: _full_folder(path),
}


def replace(path: Path, kind: str, users: Path) -> None:
    """Put something of a kind in the place of a stored file or folder."""
    remove(path)
    KINDS[kind](path, users)
