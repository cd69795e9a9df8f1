"""Distributes a model's files over the layers of its image."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deployledger.adapters.oci.failures import file_damaged, model_unreadable

MODELS = "models"
"""The folder of the image that the model is in: where KServe looks for it."""

OWN_LAYER_BYTES = 1024 * 1024
MAX_OWN_LAYERS = 64
"""Container runtimes take some 127 layers at most, and each costs a round trip when it is pulled."""


class ModelFile(NamedTuple):
    """A file of a model: where it is on disk, its path in the image, and its size in bytes."""

    source: Path
    name: str
    size: int


@dataclass(frozen=True)
class Layer:
    """Files that are archived together, and the path in the image that they are, or are below."""

    path: str
    files: tuple[ModelFile, ...]


def model_files(folder: Path) -> list[ModelFile]:
    """Return the files below ``folder``, ordered by the UTF-8 bytes of their paths.

    Raises:
        ExternalServiceError: it cannot be read, or holds something else than regular files and folders.
    """
    try:
        return sorted(_walk(folder), key=lambda file: file.name.encode())
    except OSError as error:
        raise model_unreadable(folder, error) from error
    except UnicodeEncodeError as error:
        raise file_damaged(f"{str(folder)!r} has names that are not UTF-8.") from error


def layers_of(files: Sequence[ModelFile]) -> list[Layer]:
    """Distribute the files over layers, by their names and sizes alone.

    Big files have a layer each, as ModelPack advises, so that the images of two versions of a model share
    the layers of what did not change. All others go into one layer: a layer for each of thousands of files
    is more than container runtimes take.
    """
    big = sorted((file for file in files if file.size >= OWN_LAYER_BYTES), key=lambda file: -file.size)
    own = set(big[:MAX_OWN_LAYERS])
    layers = [Layer(file.name, (file,)) for file in files if file in own]
    rest = tuple(file for file in files if file not in own)
    return [Layer(MODELS, rest), *layers] if rest else layers


def _walk(folder: Path) -> Iterator[ModelFile]:
    for parent, folders, names in os.walk(folder, onerror=_fail):
        for name in (*folders, *names):
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield ModelFile(path, f"{MODELS}/{path.relative_to(folder).as_posix()}", status.st_size)
            elif not stat.S_ISDIR(status.st_mode):
                raise file_damaged(f"{str(path)!r} of the fetched model is neither a file nor a folder.")


def _fail(error: OSError) -> None:
    raise error
