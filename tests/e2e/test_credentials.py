"""The command line repeats no credential that it was given."""

from typing import Any

import pytest

SECRET = "s3cr3tValue7"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tag", f"token={SECRET}", "--verbose"],
        ["--tag", f"token:{SECRET}", "--output", "json"],
        ["--port", f"https://u:{SECRET}@h"],
    ],
)
def test_a_refused_command_names_the_option_and_not_the_value(cli: Any, arguments: list[str]) -> None:
    done = cli.run("deploy", "models:/iris/1", "--name", "iris", *arguments)
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    assert ("tag" in done.stderr) or ("port" in done.stderr)
