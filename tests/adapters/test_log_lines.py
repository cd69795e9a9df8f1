"""Reading a deployment's log while it is written and rotated."""

import asyncio
import uuid
from pathlib import Path

import pytest

from deployledger.adapters.local.folders import DeploymentFolder
from deployledger.adapters.local.log_lines import log_lines
from deployledger.gateway import revision_log
from deployledger.gateway.revision_log import RevisionLog


@pytest.fixture
def folder(tmp_path: Path) -> DeploymentFolder:
    folder = DeploymentFolder(tmp_path, uuid.uuid4())
    folder.revision(1).path.mkdir(parents=True)
    return folder


@pytest.fixture
def log(folder: DeploymentFolder, monkeypatch: pytest.MonkeyPatch) -> RevisionLog:
    """A log that is rotated when it has ten lines."""
    monkeypatch.setattr(revision_log, "ROTATE_BYTES", 10 * len(b"[r] 00\n") - 1)
    return RevisionLog(folder.revision(1).server_log)


async def test_a_log_that_was_just_rotated_is_not_empty(folder: DeploymentFolder, log: RevisionLog) -> None:
    for number in range(10):
        log.write("r", f"{number:02}")
    assert folder.revision(1).server_log.read_bytes() == b""
    assert [line async for line in log_lines(folder, follow=False)] == [f"[r] {n:02}" for n in range(10)]


async def test_lines_from_before_a_rotation_come_first(folder: DeploymentFolder, log: RevisionLog) -> None:
    for number in range(25):
        log.write("r", f"{number:02}")
    assert [line async for line in log_lines(folder, follow=False)] == [f"[r] {n:02}" for n in range(10, 25)]


async def test_no_line_is_lost_by_a_rotation_while_the_log_is_followed(
    folder: DeploymentFolder, log: RevisionLog
) -> None:
    seen: list[str] = []
    written = 0
    async with asyncio.timeout(60):
        log.write("r", "00")
        async for line in log_lines(folder, follow=True):
            seen.append(line)
            if len(seen) == 33:
                break
            while written < min(len(seen) + 8, 32):
                written += 1
                log.write("r", f"{written:02}")
    assert seen == [f"[r] {n:02}" for n in range(33)]


async def test_a_revision_that_logs_nothing_has_no_lines(folder: DeploymentFolder) -> None:
    assert [line async for line in log_lines(folder, follow=False)] == []
