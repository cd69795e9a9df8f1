"""Processes that outlive the one that started them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deployledger.service.files.private import open_file

# Settings of the product (the database's URL among them) are no business of a model server.
_OWN_SETTINGS = "DEPLOYLEDGER_"


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter, safe from the current folder's modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def start_detached(
    command: Sequence[str], *, log: Path, cwd: Path, keep_open: int
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, with its output appended to ``log``.

    It inherits the one descriptor ``keep_open`` (a held lock), and nothing else that is open here.
    """
    with open(log, "ab", opener=open_file) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=_environment(),
            pass_fds=[keep_open],
            start_new_session=True,
        )
    # Reaps the process when it ends while we are still here, so that it does not stay as a zombie.
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
    return process


def kill_group(pid: int) -> None:
    """Kill a process that leads its group, and the whole group; call it only while its lock is held."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def with_log(message: str, lines: Sequence[str]) -> str:
    """Return a message, followed by the last lines of a log if there are any."""
    return "\n".join([message, *(["Its log ends with:", *lines] if lines else [])])


def last_lines(path: Path, count: int = 10) -> list[str]:
    """Return the last lines of a log file; none if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:]


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
