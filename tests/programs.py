"""Programs of the system that some tests need."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test where a part of the system is missing; fail it in continuous integration, which has all.

    Raises:
        pytest.skip.Exception: the reason.
        pytest.fail.Exception: the reason, where ``CI`` is set, as ``.ci/run`` does.
    """
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; .ci/run should have seen to it")
    pytest.skip(reason)


def program(name: str) -> str:
    """Return the path of a program, from Debian's package of the same name."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    return path or missing(f"{name} is not installed: apt-get install {name}")
