"""Runs ``deployledger`` again and again, each time in a process of its own that need not import it anew."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile


@dataclass
class Commands:
    """A process that has imported everything, and that every command is a fork of."""

    _server: "subprocess.Popen[str]"

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and all that it printed."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with TemporaryFile() as output:
            path = f"/proc/{os.getpid()}/fd/{output.fileno()}"
            self._server.stdin.write(json.dumps([path, *arguments]) + "\n")
            self._server.stdin.flush()
            exit_code = int(self._server.stdout.readline())
            output.seek(0)
            return exit_code, output.read().decode()


@contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    """Enter with commands that run in a folder, with the environment of now."""
    with subprocess.Popen(
        [sys.executable, __file__], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Commands(server)
        server.communicate()


def serve() -> None:
    """Fork for each line of standard input, and print the exit code of each fork."""
    import deployledger.adapters.cli
    import deployledger.app.composed_service  # noqa: F401  # as every command needs them
    from deployledger.app.command_line import main

    for line in sys.stdin:
        output, *arguments = json.loads(line)
        process = os.fork()
        if process == 0:
            descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
            for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, descriptor), (2, descriptor)):
                os.dup2(source, stream)
            sys.argv = ["deployledger", *arguments]
            main()
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
