"""Read models under load, and with processes killed: nothing lost, nothing twice, nothing left over."""

import asyncio
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.event_log import version_of
from deployledger.projections.read_models import ReadModels
from deployledger.service.listing import Filters, Listing, list_page
from tests.domain.given import SERVING, history, request, update_requested
from tests.faults import reading
from tests.faults.audit import new_command
from tests.faults.conftest import times, wait_until
from tests.faults.workers import PROCESSES, start
from tests.projections.examples import COUNTS, assert_folded, catch_all_up, opened, read_tables, tables


@contextmanager
def running(*processes: Any) -> Iterator[None]:
    """Kill processes at the end, if they are still there."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


# Rebuilding while everything goes on ----------------------------------------------------------------


class Reader:
    """Reads all the time, and checks that nothing it sees is a mixture or goes back."""

    def __init__(self, models: ReadModels, streams: list[UUID]) -> None:
        self._models = models
        self._streams = streams
        self._versions: dict[UUID, int] = {}
        self.problems: list[str] = []
        self.reads_within = 0
        """How many reads began and ended within one rebuild."""

    def read(self, stopping: threading.Event, rebuilding: list[int]) -> None:
        """Read until the end; the last of ``rebuilding`` is the rebuild that is going on, or 0."""
        random_ = random.Random(7)
        while not stopping.is_set():
            rebuild = rebuilding[-1]
            try:
                if random_.random() < 0.5 and self._streams:
                    self._read_status(random_.choice(self._streams))
                else:
                    self._read_list(random_)
            except Exception as error:
                self.problems.append(repr(error))
            self.reads_within += rebuild != 0 and rebuild == rebuilding[-1]
            stopping.wait(0.005)

    def _read_status(self, stream: UUID) -> None:
        row = self._models.get("deployment_status", str(stream))
        if row is None:
            self.problems.append(f"{stream} is missing")
        elif row.version < self._versions.get(stream, 0):
            self.problems.append(f"{stream} went back from {self._versions[stream]} to {row.version}")
        else:
            self._versions[stream] = row.version

    def _read_list(self, random_: random.Random) -> None:
        known = len(self._streams)
        status = random_.choice(["active", "creating", "updating"])
        page = list_page(self._models, Listing(limit=20, filters=Filters(status=status)), "current")
        for it in page:
            if it.status != status:  # the list selected it by another state than the one that is told
                self.problems.append(f"{it.deployment_id} is listed as {status}, and is {it.status}")
        total = list_page(self._models, Listing(limit=1, descending=True), "current").total
        if total < known:
            self.problems.append(f"{total} are listed of at least {known}")


@pytest.mark.parametrize("workers", [1, 2])
def test_readers_and_writers_go_on_during_a_rebuild(workers: int, database_url: str) -> None:
    streams: list[UUID] = []
    rebuilding, written_within = [0], 0
    stopping = threading.Event()
    with opened(database_url, COUNTS) as models, opened(database_url, COUNTS) as other:
        for _ in range(times(100, 2000)):
            past = new_command(3)
            models.log.append(past)
            streams.append(past[0].originator_id)

        def write() -> None:
            nonlocal written_within
            while not stopping.is_set():
                rebuild = rebuilding[-1]
                for stream in streams[-1:]:
                    version = version_of(models.log, stream)
                    ends = history(*SERVING, update_requested(), stream=stream)[version:]
                    if ends:
                        models.log.append(ends[:1])
                past = new_command(3)
                models.log.append(past)
                streams.append(past[0].originator_id)
                written_within += rebuild != 0 and rebuild == rebuilding[-1]
                stopping.wait(0.008)

        readers = [Reader(models, streams), Reader(other, streams)]
        catch_all_up(other)
        threads = [threading.Thread(target=write)]
        threads += [threading.Thread(target=it.read, args=(stopping, rebuilding)) for it in readers]
        for thread in threads:
            thread.start()
        latest = time.monotonic() + 300
        try:
            for rebuild in itertools.count(1):
                rebuilding.append(rebuild)
                other.rebuild(list(other.projections), workers=workers)
                rebuilding.append(0)
                fewest = min(written_within, *(it.reads_within for it in readers))
                if fewest >= times(20, 2000) or time.monotonic() > latest:
                    break
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        assert [it.problems for it in readers] == [[], []]
        assert fewest >= times(20, 2000), "somebody had to wait for the rebuilds to end"
        assert not any(it.differences for it in other.verify(list(other.projections)))
        catch_all_up(models)
        assert_folded(models)
        assert tables(database_url) == read_tables(models)


# Followers that are killed --------------------------------------------------------------------------


def follower_of(models: ReadModels, name: str) -> int | None:
    """Return the process that follows, if one does."""
    (found,) = [it.follower for it in models.status() if it.name == name]
    return int(found.rpartition(":")[2]) if found else None


def test_of_three_followers_the_active_one_is_killed_again_and_again(database_url: str) -> None:
    stop = PROCESSES.Event()
    with opened(database_url, COUNTS) as models:
        catch_all_up(models)
        followers = {it.pid: it for it in (start(reading.follow, database_url) for _ in range(3))}
        writer = start(reading.append_until, database_url, stop)
        longest, killed = 0.0, 0
        with running(writer):
            try:
                while killed < times(10, 200):
                    name = ("counts", "deployment_status")[killed % 2]
                    wait_until(lambda: follower_of(models, name) in followers)  # noqa: B023
                    active = follower_of(models, name)
                    assert active is not None
                    time.sleep(random.uniform(0, 0.1))
                    followers.pop(active).kill()
                    killed += 1
                    (before,) = [it.position for it in models.status() if it.name == name]
                    before = max(before, models.log.position())
                    begin = time.monotonic()
                    wait_until(lambda: _position(models, name) > before)  # noqa: B023
                    longest = max(longest, time.monotonic() - begin)
                    again = start(reading.follow, database_url)
                    followers[again.pid] = again
                stop.set()
                writer.join(60)
                end = models.log.position()
                for name in models.projections:
                    wait_until(lambda: _position(models, name) == end)  # noqa: B023
            finally:
                for it in followers.values():
                    it.kill()
                    it.join()
        print(f"{killed} followers killed; the longest fail-over took {1000 * longest:.0f} ms")
        assert end > 20
        assert_folded(models)  # nobody has read but the followers


def _position(models: ReadModels, name: str) -> int:
    return next(it.position for it in models.store.records() if it.name == name)


# Rebuilds that are killed ---------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rebuild_that_is_killed_leaves_the_old_rows_and_no_others(
    workers: int, database_url: str, tmp_path: Path
) -> None:
    with opened(database_url, COUNTS) as models:
        for _ in range(200):
            models.log.append(new_command(4))
        catch_all_up(models)
        unfinished = 0
        for number in range(times(4, 60)):
            begun = tmp_path / f"begun-{number}"
            process = start_alone(reading.rebuild, database_url, workers, 0.05, begun)
            workers_seen: list[int] = []
            try:
                wait_until(begun.exists)
                time.sleep(number * 0.12 % 0.5)
                workers_seen = children(process.pid)
                models.log.append(new_command(2))
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            unfinished += tables(database_url) != read_tables(models)
            wait_until(lambda: not any(is_running(it) for it in workers_seen))  # noqa: B023
            for projection in models.projections.values():  # the old rows are read, and are current
                models.catch_up(projection)
            assert_folded(models)
        assert unfinished, "no rebuild was killed halfway"
        assert len(models.rebuild(list(models.projections))) == 4
        assert tables(database_url) == read_tables(models)
        assert not any(it.differences for it in models.verify(list(models.projections)))
        assert_folded(models)


def start_alone(work: Any, *arguments: Any) -> Any:
    """Start a process that may start others, as a daemon of `multiprocessing` may not."""
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    return process


# Reads right after writes in another process --------------------------------------------------------


async def test_what_one_process_was_told_another_one_sees_at_once(database_url: str) -> None:
    here, there = PROCESSES.Pipe()
    async with MLModelDeploymentService(database_url=database_url, run_jobs=False, resume=False) as service:
        await service.list_deployments()
        process = start(reading.answer, database_url, there)
        there.close()  # so that the end of the other process is the end of the conversation
        with running(process):
            assert await asyncio.to_thread(here.recv) == process.pid
            known: list[Any] = []
            for number in range(times(300, 10_000)):
                if number % 3 == 0:
                    told = await service.deploy_model(request(deployment_name=f"iris-{number}"))
                    known.append(told.deployment_id)
                else:
                    told = await service.update_deployment(
                        known[-1], request(deployment_name=f"iris-{number}")
                    )
                if number % 2:
                    here.send((told.deployment_id, "status"))
                    assert await asyncio.to_thread(here.recv) == (told.version, f"iris-{number}")
                else:
                    here.send((told.deployment_id, "list"))
                    answer = await asyncio.to_thread(here.recv)
                    assert answer == (len(known), told.deployment_id, told.version)
            here.send(None)
            process.join(60)
        assert not any(it.follower for it in await asyncio.to_thread(service.read_models.status))
