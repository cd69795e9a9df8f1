"""The environment of the process: an empty variable counts as unset, also for our libraries."""

import os
import re

_READ = re.compile(
    r"(DEPLOYLEDGER|MLFLOW|XDG|AWS|AZURE)_\w+|PG[A-Z]+|HOME|USER|LOGNAME|TMPDIR|SSL_CERT_(FILE|DIR)"
    r"|NO_COLOR|FORCE_COLOR|COLORTERM|COLUMNS|LINES|TERM|TERMINAL_WIDTH|TTY_\w+"
)
"""What is read by deployledger, or by MLflow, libpq, Rich and others on its behalf. ``TZ`` is not among them:
where it is empty, the zone is UTC."""


def forget_empty_variables() -> None:
    """Remove the empty variables that would be taken for values: a port, a folder, a time-out of nothing.

    Scripts and orchestrators set a variable to nothing where they mean to leave it out.
    """
    for name in [name for name, value in os.environ.items() if not value and _READ.fullmatch(name)]:
        del os.environ[name]
