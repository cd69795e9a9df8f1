"""Runs ``deployledger`` again and again, each time in a process of its own that need not import it anew."""

import atexit
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryDirectory
from threading import Lock


def run(
    *arguments: str | Path, environment: Mapping[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in a folder, with nothing to read from."""
    words = list(map(str, arguments))
    with TemporaryDirectory(prefix="deployledger-output-") as output:
        files = [Path(output, name) for name in ("stdout", "stderr")]
        exit_code = _forking_server().run([words, dict(environment), str(folder), *map(str, files)])
        return subprocess.CompletedProcess(words, exit_code, *(file.read_text("utf-8") for file in files))


class _ForkingServer:
    """A process that has imported everything, and that every command is a fork of."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)

    def run(self, request: list[object]) -> int:
        """Return the exit code of a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


@cache
def _forking_server() -> _ForkingServer:
    return _ForkingServer()


def _serve() -> None:
    """Fork for each line of standard input, and print the exit code of each fork."""
    import deployledger.adapters
    import deployledger.app.composed_service
    from deployledger.app.command_line import main

    for module in walk_packages(deployledger.adapters.__path__, "deployledger.adapters."):
        import_module(module.name)
    gc.freeze()
    for line in sys.stdin:
        arguments, environment, folder, stdout, stderr = json.loads(line)
        process = os.fork()
        if process == 0:
            for stream, path in enumerate((os.devnull, stdout, stderr)):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(descriptor, stream)
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(environment)
            time.tzset()
            os.chdir(folder)
            sys.path[:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
            sys.argv = ["deployledger", *arguments]
            main()
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
