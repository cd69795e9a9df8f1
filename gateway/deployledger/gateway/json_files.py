"""JSON files that are never seen half-written."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployledger.service.private_files import is_shared, share
from deployledger.serving.model_files.reading import is_folder, read_stored
from deployledger.serving.model_files.replacing import move_aside, put


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace ``path`` by ``content`` at once; only the owner, or the group of the home, can read it."""
    # mkstemp makes the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if is_shared(path.parent):
                share(file.fileno())
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        put(Path(temporary), path, aside=_damaged(path))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or None if there is no such file, or it cannot be read as one."""
    try:
        content = json.loads(read_stored(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def make_way(path: Path) -> None:
    """Remove the file at ``path``; a folder in its place is moved beside it."""
    if is_folder(path):
        move_aside(path, _damaged(path))
    else:
        path.unlink(missing_ok=True)


def _damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
