"""The command line in this process: what it writes to which streams, and its exit code."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli import app


class Output(io.TextIOWrapper):
    """A standard stream, or what takes its place."""

    def __init__(self, raw: io.RawIOBase | None = None, encoding: str = "utf-8", is_terminal: bool = False):
        self.raw = raw or Kept()
        self.is_terminal = is_terminal
        super().__init__(io.BufferedWriter(self.raw), encoding=encoding)

    def isatty(self) -> bool:
        return self.is_terminal

    @property
    def text(self) -> str:
        assert isinstance(self.raw, Kept)
        self.flush()
        return self.raw.content.decode(self.encoding)


class Kept(io.RawIOBase):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.content += bytes(content)
        return len(content)


class Failing(io.RawIOBase):
    """Fails with an error of the operating system, as a full disk or a closed pipe does."""

    def __init__(self, number: int) -> None:
        self.number = number

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        raise OSError(self.number, "Broken" if self.number == 32 else "No space left on device")


@dataclass
class Done:
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class InProcess:
    """Runs ``deployledger`` with simulated clients on a database.

    Attributes:
        database_url: the database.
        patch: sets what is set back at the end of the test.
    """

    database_url: str
    patch: pytest.MonkeyPatch

    def run(self, *arguments: object, stdout: Output | None = None, stderr: Output | None = None) -> Done:
        """Run a command to its end; what it wrote is empty where a stream does not keep it."""
        streams = {"stdout": stdout or Output(), "stderr": stderr or Output()}
        for name, stream in streams.items():
            self.patch.setattr(sys, name, stream)
        self.patch.setattr(sys, "argv", ["deployledger", *map(str, arguments)])
        with _handlers_put_back(), pytest.raises(SystemExit) as end:
            app.run(self._open)
        texts = [it.text if isinstance(it.raw, Kept) else "" for it in streams.values()]
        assert "Traceback" not in "".join(texts), texts
        return Done(int(end.value.code or 0), *texts)

    def _open(self) -> MLModelDeploymentService:
        return MLModelDeploymentService(database_url=self.database_url, create_schema=True, resume=False)


@contextmanager
def _handlers_put_back() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)


_LOGGERS = [
    None,
    "ml_model_deployment_service",
    "ml_model_deployment_service.read_models",
    "ml_model_deployment_service.checkpoints",
]
