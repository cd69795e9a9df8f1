"""Finds the files that an ONNX model keeps its weights in, beside itself.

The model is a protobuf message, of which only the path to these names is read: the fields ``graph`` (7) of
ModelProto, ``initializer`` (5) of GraphProto, ``external_data`` (13) of TensorProto, and its entries' ``key``
(1) and ``value`` (2); https://github.com/onnx/onnx/blob/v1.17.0/onnx/onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from deployledger.adapters.artifacts.refusals import refused
from deployledger.adapters.artifacts.source import SourceFile
from deployledger.domain.reasons import FailureReason


def refuse_without_weights(file: SourceFile) -> None:
    """Return if a model of one file has its weights in it, or is no ONNX model.

    Raises:
        ModelRegistryError: its weights are in other files, which would be left behind (``model_invalid``).
    """
    if not file.name.endswith(".onnx"):
        return
    names = sorted(_weight_files(file.path))
    if not names:
        return
    folder = Path(file.path).parent
    are_there = all((folder / name).exists() for name in names)
    raise refused(
        FailureReason.MODEL_INVALID,
        f"{file.path!r} has its weights in {', '.join(names)}, which would not be deployed with it.",
        hint=f"Deploy the folder {str(folder)!r}, which has both."
        if are_there
        else "Deploy a folder that has the model and these files.",
    )


def _weight_files(path: str) -> set[str]:
    try:
        with (
            Path(path).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return set(_locations(content))
    except (OSError, ValueError, IndexError):  # no ONNX model: whoever loads it says what is wrong with it
        return set()


def _locations(content: mmap.mmap) -> Iterator[str]:
    for graph in _fields(content, (0, len(content)), 7):
        for initializer in _fields(content, graph, 5):
            for entry in _fields(content, initializer, 13):
                keys = [content[start:end] for start, end in _fields(content, entry, 1)]
                if keys == [b"location"]:
                    for start, end in _fields(content, entry, 2):
                        yield content[start:end].decode()


def _fields(content: mmap.mmap, within: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield where the values of a length-delimited field begin and end.

    Raises:
        ValueError: it is no protobuf message.
        IndexError: likewise.
    """
    at, end = within
    while at < end:
        tag, at = _varint(content, at)
        match tag & 7:
            case 0:  # varint
                _, at = _varint(content, at)
            case 1:  # 64 bits
                at += 8
            case 2:  # length-delimited
                length, at = _varint(content, at)
                if at + length > end:
                    raise ValueError("a field is longer than its message")
                if tag >> 3 == wanted:
                    yield at, at + length
                at += length
            case 5:  # 32 bits
                at += 4
            case _:
                raise ValueError("unknown wire type")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
