"""The disk usage of a home."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployledger.domain.event_log import EventLog
from deployledger.domain.stored import File, Kind
from deployledger.service.files.disk_space import free_bytes
from deployledger.service.files.home import DATABASE
from deployledger.service.files.inventory import allocated
from deployledger.service.files.reading import is_folder, walk
from deployledger.service.freeing import Freed

_KINDS = {
    Kind.MODEL: "models",
    Kind.IMAGE: "images",
    Kind.EXTRACTED_MODEL: "extracted models",
    Kind.UNUSED_FILE: "unused files",
    Kind.DAMAGED_FILE: "damaged files",
}


@dataclass(frozen=True)
class KindUsage:
    """Disk usage of one kind of files.

    Attributes:
        disk_bytes: bytes; what is linked to from several kinds counts for the first one.
        freeable_bytes: how many of them `free_artifacts` would free.
    """

    kind: str
    disk_bytes: int
    freeable_bytes: int = 0


@dataclass(frozen=True)
class DeploymentUsage:
    """Disk usage of one deployment.

    Attributes:
        own_bytes: of files that no other deployment uses.
        shared_bytes: of files that others use, too; they count for each of them.
        freeable_bytes: how many bytes of both `free_artifacts` would free.
    """

    deployment_id: str
    deployment_name: str
    is_deleted: bool
    own_bytes: int
    shared_bytes: int
    freeable_bytes: int


@dataclass(frozen=True)
class DiskUsage:
    """Disk usage of a home.

    Attributes:
        home: the folder.
        disk_bytes: the bytes that everything in it takes.
        free_bytes: what may still be written there.
        database: where the event log is.
        database_bytes: how much room its events take.
    """

    home: str
    disk_bytes: int
    free_bytes: int
    freeable_bytes: int
    database: str
    database_bytes: int
    kinds: tuple[KindUsage, ...]
    deployments: tuple[DeploymentUsage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


def measure(home: Path, freeable: Freed, log: EventLog) -> DiskUsage:
    """Return the disk usage of a home.

    Args:
        freeable: everything that is stored, and what of it could be freed.
    """
    freed = freeable.freed_files
    kinds: dict[str, dict[File, int]] = {}
    seen: set[File] = set()
    for kind, name in _KINDS.items():
        for each in freeable.decided:
            if each.files.stored.kind is kind:
                _add(kinds, name, each.files.stored.files, seen)
    for name, file, size in _others(home):
        _add(kinds, name, {file: size}, seen)
    statistics = log.statistics()
    return DiskUsage(
        home=str(home),
        disk_bytes=sum(sum(files.values()) for files in kinds.values()),
        free_bytes=free_bytes(home),
        freeable_bytes=freeable.freed_bytes,
        database=statistics.database,
        database_bytes=statistics.size_bytes,
        kinds=tuple(
            KindUsage(name, sum(files.values()), sum(size for file, size in files.items() if file in freed))
            for name, files in kinds.items()
        ),
        deployments=tuple(_deployments(freeable, freed)),
    )


def _add(kinds: dict[str, dict[File, int]], name: str, files: Mapping[File, int], seen: set[File]) -> None:
    new = {file: size for file, size in files.items() if file not in seen}
    seen.update(new)
    if new:
        kinds.setdefault(name, {}).update(new)


def _deployments(freeable: Freed, freed: dict[File, int]) -> Iterator[DeploymentUsage]:
    names: dict[str, tuple[str, bool]] = {}
    used: dict[str, dict[File, int]] = {}
    users: dict[File, set[str]] = {}
    for each in freeable.decided:
        for use in each.files.used_by:
            key = str(use.deployment_id)
            names[key] = (use.deployment_name, use.deleted)
            used.setdefault(key, {}).update(each.files.stored.files)
            for file in each.files.stored.files:
                users.setdefault(file, set()).add(key)
    for key, files in used.items():
        own = sum(size for file, size in files.items() if len(users[file]) == 1)
        yield DeploymentUsage(
            key,
            *names[key],
            own_bytes=own,
            shared_bytes=sum(files.values()) - own,
            freeable_bytes=sum(size for file, size in files.items() if file in freed),
        )


def _others(home: Path) -> Iterator[tuple[str, File, int]]:
    """Yield every file in the home, with its kind if it belongs to no model or image."""
    try:
        entries = sorted(home.iterdir())
    except OSError:
        return
    for entry in entries:
        root = entry.resolve()  # a folder of the home may be a link to another disk
        with suppress(FileNotFoundError):  # removed just now
            for path, status in walk(root) if is_folder(root) else [(root, root.lstat())]:
                if stat.S_ISREG(status.st_mode):
                    file, size = allocated(status)
                    yield _name(entry, path), file, size


def _name(entry: Path, path: Path) -> str:
    if entry.name.startswith((DATABASE, f".{DATABASE}")):
        return "databases"
    if entry.name == "downloads" or "staging" in path.parts:
        return "staging"
    if entry.name == "serving":
        return "logs and state of servers"
    if entry.name == "inputs":
        return "inputs of batch jobs"
    if entry.name in ("artifacts", "images"):
        return "listings, indexes and locks"
    return "other files"
