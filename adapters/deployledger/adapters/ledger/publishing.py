"""Takes checkpoints out of the database: to a folder, or to any place that fsspec writes to."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployledger.audit.evidence.kept_checkpoints import CHECKPOINT_SUFFIX, EarlierState
from deployledger.domain.exceptions import (
    ConfigurationError,
    ExternalServiceError,
    MachineLearningServiceError,
)
from deployledger.domain.redaction import without_credentials
from deployledger.service.files.paths import local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from deployledger.audit.ledger_store import StoredCheckpoint

_LARGEST_BYTES = 1 << 20
_PUBLISHED = re.compile(r"[0-9]{12,}-([0-9a-f-]+)\.checkpoint")
_LAST_OF_A_KEY = 3
"""How many checkpoints of each key are read before one is signed: the last may be damaged."""


class Place:
    """A folder, or a URI that fsspec knows, with a file for each checkpoint.

    A file is named by the size of the checkpoint and the key that signed it, and never changed.

    Args:
        place: a path, ``file://…``, or ``s3://…`` and the like, which need the extra ``storage``.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._folder = _folder(place)

    def publish(self, checkpoint: "StoredCheckpoint") -> None:
        """Write a checkpoint, if it is not there.

        Raises:
            ExternalServiceError: if it cannot be written, or another one of the same size and key is there.
        """
        if self._folder is not None:
            _write_file(self._folder, checkpoint)
        else:
            _write_remote(self._place, checkpoint)

    def newest_first(self) -> "Iterator[tuple[str, bytes]]":
        """Yield the last checkpoints of each key: where each is from, and the signed note; the largest first.

        Files with other names than `publish` gives them are yielded, too: they may be of any key.

        Raises:
            ExternalServiceError: if the place cannot be read.
        """
        try:
            names, read = _listed(self._place)
            for name in _last_of_each_key(names or ()):
                yield name, read(name)
        except MachineLearningServiceError:
            raise
        except Exception as error:  # every file system has errors of its own
            raise ExternalServiceError(
                "checkpoints",
                f"The checkpoints at {_shown(self._place)} cannot be read: {_without(error, self._place)}.",
                hint="No checkpoint was made, because it might contradict them. Try again.",
            ) from None


def read_checkpoints(place: str) -> list[tuple[str, bytes]]:
    """Return the checkpoints in a file, a folder, or at a URI: where each is from, and the signed note.

    Raises:
        ConfigurationError: if there is nothing to be read.
    """
    try:
        names, read = _listed(place)
        checkpoints = [(name, read(name)) for name in (names if names is not None else [_one(place)])]
        if names is None:  # it was named for what it is; in a folder, others may lie beside it
            EarlierState.of(*checkpoints[0])
    except MachineLearningServiceError:
        raise
    except Exception as error:  # as above
        raise ConfigurationError(
            f"The checkpoints at {_shown(place)} cannot be read: {_without(error, place)}.",
            hint="Name the file of a checkpoint, or a folder or URI that has some.",
        ) from None
    if not checkpoints:
        raise ConfigurationError(
            f"There is no checkpoint at {_shown(place)}: no file ends with {CHECKPOINT_SUFFIX}."
        )
    return checkpoints


def earlier_states(place: str) -> list[EarlierState]:
    """Return the states of a log that checkpoints in a file, a folder or at a URI are of, or evidence is.

    Raises:
        ConfigurationError: if there is nothing to be read, or something else than checkpoints.
    """
    folder = _folder(place)
    if folder is not None and folder.exists():
        return EarlierState.read_all(folder)
    return [EarlierState.of(source, note) for source, note in read_checkpoints(place)]


def earlier_state(place: str) -> EarlierState:
    """Return the one state that a checkpoint in a file or at a URI is of, or evidence is.

    Raises:
        ConfigurationError: if there is none, or there are several.
    """
    folder = _folder(place)
    if folder is not None and folder.is_file():
        return EarlierState.read(folder)
    return EarlierState.of(*read_checkpoint(place))


def read_checkpoint(place: str) -> tuple[str, bytes]:
    """Return the one checkpoint that is in a file or at a URI: where it is from, and the signed note.

    Raises:
        ConfigurationError: if there is none, or there are several.
    """
    checkpoints = read_checkpoints(place)
    if len(checkpoints) > 1:
        raise ConfigurationError(
            f"There are {len(checkpoints)} checkpoints at {_shown(place)}; exactly one is needed.",
            hint=f"Name one of the files in it, like {checkpoints[-1][0]}.",
        )
    return checkpoints[0]


def _listed(place: str) -> tuple[list[str] | None, Callable[[str], bytes]]:
    """Return the names of the checkpoints in a folder, the smallest first, and what reads one.

    No names if the place is no folder.
    """
    folder = _folder(place)
    if folder is not None:
        return _checkpoints(map(str, folder.iterdir())) if folder.is_dir() else None, _read_file
    system, root = _fsspec(place)

    def read(name: str) -> bytes:
        return bytes(system.cat_file(name, end=_LARGEST_BYTES + 1))

    return _checkpoints(system.ls(root, detail=False)) if system.isdir(root) else None, read


def _checkpoints(names: "Iterable[str]") -> list[str]:
    return sorted(name for name in names if name.endswith(CHECKPOINT_SUFFIX))


def _last_of_each_key(names: "Sequence[str]") -> "Iterator[str]":
    """Yield the last names of each key, the largest first; which key it is, the name says."""
    seen: Counter[str] = Counter()
    for name in reversed(names):
        match = _PUBLISHED.fullmatch(name.rpartition("/")[2])
        if match is not None:
            seen[match[1]] += 1
            if seen[match[1]] > _LAST_OF_A_KEY:
                continue
        yield name


def _one(place: str) -> str:
    """Return the name of a place that is a single file."""
    folder = _folder(place)
    return str(folder) if folder is not None else str(_fsspec(place)[1])


def _folder(place: str) -> Path | None:
    """Return the path that a place is, or None if it is a URI of another kind."""
    path = local_path(place)
    return None if path is None else path.absolute()


def _read_file(name: str) -> bytes:
    with Path(name).open("rb") as file:
        return file.read(_LARGEST_BYTES + 1)


def _name(checkpoint: "StoredCheckpoint") -> str:
    from deployledger.audit.signed_notes import signed_by

    return f"{checkpoint.size:012d}-{signed_by(checkpoint.note)}{CHECKPOINT_SUFFIX}"


def _write_file(folder: Path, checkpoint: "StoredCheckpoint") -> None:
    path, note = folder / _name(checkpoint), checkpoint.note.encode()
    try:
        if path.exists():
            _check_same(str(path), path.read_bytes(), note)
            return
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            os.link(temporary, path)  # which does not replace what somebody else put there meanwhile
        except FileExistsError:
            _check_same(str(path), path.read_bytes(), note)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ExternalServiceError(
            "checkpoints",
            f"The checkpoint of {checkpoint.size:,} events cannot be written to {folder}: {error.strerror}.",
            hint="It is in the database, and is written again with the next one.",
        ) from error


def _check_same(place: str, existing: bytes, note: bytes) -> None:
    if existing != note:
        raise ExternalServiceError(
            "checkpoints",
            f"{place} already exists, and is a different checkpoint of the same size: one of the two logs "
            "was rewritten, or two logs share a key.",
            hint="`deployledger audit verify` with that file says which.",
        )


def _fsspec(place: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise ConfigurationError(
            f"Checkpoints cannot be published to {_shown(place)}: fsspec is not installed.",
            hint="Run `pip install 'deployledger[storage]'`, or give a folder, which needs nothing more.",
        ) from None
    try:
        return fsspec.core.url_to_fs(place)
    except Exception as error:  # some connect already, and each has errors of its own
        raise ConfigurationError(
            f"Checkpoints cannot be published to {_shown(place)}: {_without(error, place)}.",
            hint="Check the URI, and that what it needs is installed: s3fs for s3://, gcsfs for gs://, "
            "adlfs for az://.",
        ) from None  # what it was raised by may tell the credentials in the URI


def _shown(place: str) -> str:
    """Return a URI without what may be secret in it: who it is opened as, and with what."""
    scheme, mark, rest = place.partition("://")
    return place if not mark else f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _without(error: Exception, place: str) -> str:
    """Return what an error says without the secrets of the URI."""
    reason = error.strerror if isinstance(error, OSError) and _folder(place) else None
    text = without_credentials(reason or str(error)) or type(error).__name__
    _, _, rest = place.partition("://")
    who = rest.rpartition("@")[0]
    for secret in filter(None, [who, *who.split(":"), rest.partition("?")[2]]):
        text = text.replace(secret, "***")
    return text.rstrip(".")


def _write_remote(place: str, checkpoint: "StoredCheckpoint") -> None:
    files, root = _fsspec(place)
    path, note = f"{root.rstrip('/')}/{_name(checkpoint)}", checkpoint.note.encode()
    try:
        if files.exists(path):
            _check_same(f"{_shown(place)}/{_name(checkpoint)}", files.cat_file(path), note)
        else:
            files.makedirs(root, exist_ok=True)
            files.pipe_file(path, note)
    except ExternalServiceError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise ExternalServiceError(
            "checkpoints",
            f"The checkpoint of {checkpoint.size:,} events cannot be written to "
            f"{_shown(place)}: {_without(error, place)}.",
            hint="It is in the database, and is written again with the next one.",
        ) from None
