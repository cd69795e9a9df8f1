"""The ways that docs/architecture.md describes are those that calls take."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from deployledger.testing import in_memory_service
from tests.domain.given import request

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
HOP = re.compile(r"^\d+\. \[`([\w.]+)`\]\(\.\./([\w./]+)\)", re.MULTILINE)

Hop = tuple[str, str]
"""A file of the repository, and the qualified name of a function in it."""


def hops(heading: str) -> list[Hop]:
    section = PAGE.read_text().partition(f"\n## {heading}")[2].partition("\n## ")[0]
    return [(file, function) for function, file in HOP.findall(section)]


@contextmanager
def traced() -> Iterator[list[Hop]]:
    """Give the calls of functions of ours, of this thread and of all that it starts, in order."""
    calls: list[Hop] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{REPOSITORY}/") and "/.venv/" not in file:
            calls.append((file.removeprefix(f"{REPOSITORY}/"), frame.f_code.co_qualname))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # as its documentation says


def require_way(expected: list[Hop], calls: list[Hop]) -> None:
    assert len(expected) > 5
    remaining = iter(calls)
    for hop in expected:
        assert hop in calls, f"{hop} was not called"
        assert hop in remaining, f"{hop} was not called after the hop before it"


async def test_a_command_takes_the_way_that_is_described(tmp_path: Path) -> None:
    with traced() as calls:
        async with in_memory_service(database_url=f"sqlite:///{tmp_path}/log.db") as service:
            calls.clear()
            accepted = await service.deploy_model(request())
            await service.wait_for_deployment(accepted.deployment_id)
            await service.settled(accepted.deployment_id)
            way = list(calls)
    require_way(hops("How a command passes through"), way)


async def test_a_query_takes_the_way_that_is_described(tmp_path: Path) -> None:
    with traced() as calls:
        async with in_memory_service(database_url=f"sqlite:///{tmp_path}/log.db", run_jobs=False) as service:
            accepted = await service.deploy_model(request())
            calls.clear()
            await service.get_deployment_status(accepted.deployment_id)
            way = list(calls)
    require_way(hops("How a query passes through"), way)


@pytest.mark.parametrize("path", re.findall(r"\]\(\.\./([\w./]+)\)", PAGE.read_text()))
def test_every_file_on_the_page_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()
