"""Files of models, as tests give and damage them."""

import os
from pathlib import Path

from deployledger.domain.values import Artifact
from deployledger.service.files.listing import encode_listing, list_files, tree_digest


def artifact_of(folder: Path) -> Artifact:
    """Return what the artifact store would say of the files in a folder."""
    entries = list_files(folder) if folder.is_dir() else []
    return Artifact(
        digest=tree_digest(encode_listing(entries)),
        size_bytes=sum(entry.size for entry in entries),
        file_count=len(entries),
        resolved_uri=folder.as_uri(),
    )


def rot(path: Path, at: int | None = None) -> None:
    """Flip one bit of a file, in the middle unless told where; its size and time stay."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        at = status.st_size // 2 if at is None else at
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
