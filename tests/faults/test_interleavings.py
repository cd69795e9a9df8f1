"""Commands at random, of threads and coroutines at the same time: what happens is what some order gives."""

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployledger.adapters.event_log.commands import Command, Conflict, Outcome, Repeated, Stored
from deployledger.adapters.event_log.group_commit import GroupCommit
from deployledger.projections.patience import Patience
from tests.faults.audit import rows
from tests.faults.conftest import times
from tests.faults.writers import command, created, writer

CALLERS = 6


@dataclass(frozen=True)
class Plan:
    """What a caller wants to store: behind the last version that it knows, or not, in one stream or two."""

    streams: tuple[int, ...]
    size: int
    off: int
    key: int | None


plans = st.builds(
    Plan,
    streams=st.sampled_from([(0,), (1,), (2,), (0, 1), (2, 0)]),
    size=st.integers(1, 3),
    off=st.sampled_from([0, 0, 0, 0, -1, 1]),
    key=st.sampled_from([None, None, 0, 1, 2]),
)


class Callers:
    """Callers that share what they know of the streams."""

    def __init__(self, commits: list[GroupCommit]) -> None:
        self._commits = commits
        self._prefix = uuid4().hex
        self.streams = [uuid4() for _ in range(3)]
        self._known = dict.fromkeys(self.streams, 0)
        self._lock = threading.Lock()
        self.outcomes: list[tuple[Command, Outcome]] = []

    def run(self, scripts: list[list[Plan]]) -> None:
        """Let half of the callers be threads, and half of them coroutines."""
        half = len(scripts) // 2
        with ThreadPoolExecutor(half + 1) as threads:
            running = [threads.submit(self._thread, *it) for it in enumerate(scripts[:half])]
            running.append(threads.submit(asyncio.run, self._coroutines(scripts[half:])))
            for it in running:
                it.result(60)

    def _thread(self, number: int, script: list[Plan]) -> None:
        for plan in script:
            it = self._command(plan)
            self._note(it, self._commits[number % len(self._commits)].store(it))

    async def _coroutines(self, scripts: list[list[Plan]]) -> None:
        async def call(number: int, script: list[Plan]) -> None:
            for plan in script:
                it = self._command(plan)
                self._note(it, await self._commits[number % len(self._commits)].store_async(it))

        await asyncio.gather(*(call(*it) for it in enumerate(scripts)))

    def _command(self, plan: Plan) -> Command:
        with self._lock:
            known = dict(self._known)
        places = [
            (self.streams[stream], max(0, known[self.streams[stream]] + plan.off) + number)
            for stream in plan.streams
            for number in range(1, plan.size + 1)
        ]
        return command(*places, key=None if plan.key is None else f"{self._prefix}-{plan.key}")

    def _note(self, it: Command, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes.append((it, outcome))
            if isinstance(outcome, Stored):
                for row in it.rows:
                    at = self._known[row.originator_id]
                    self._known[row.originator_id] = max(at, row.originator_version)


@pytest.fixture
def url(database_url: str) -> str:
    return created(database_url)


@pytest.fixture
def commits(url: str) -> Iterator[list[GroupCommit]]:
    """Two that share a database, as two processes do."""
    two = [
        GroupCommit(writer(url), lambda: None, patience=Patience(20), described_as="test") for _ in range(2)
    ]
    yield two
    for it in two:
        it.close()


@settings(
    max_examples=times(25, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.lists(plans, min_size=1, max_size=8), min_size=CALLERS, max_size=CALLERS))
def test_the_outcome_is_that_of_some_order(
    url: str, commits: list[GroupCommit], scripts: list[list[Plan]]
) -> None:
    callers = Callers(commits)
    callers.run(scripts)
    assert_some_order(url, callers)


def assert_some_order(url: str, callers: Callers) -> None:
    """Give the commands again one by one, in the order of the log, and compare."""
    log = rows(url)
    assert [row.position for row in log] == list(range(1, len(log) + 1))
    position_of = {row.event_id: row.position for row in log}
    versions = dict.fromkeys(callers.streams, 0)
    keys: dict[str, Command] = {}
    stored = [it for it in callers.outcomes if isinstance(it[1], Stored)]
    for it, outcome in sorted(stored, key=lambda pair: position_of[pair[0].rows[0].event_id]):
        assert isinstance(outcome, Stored)
        positions = [position_of[row.event_id] for row in it.rows]
        assert positions == list(range(outcome.position, outcome.position + len(it.rows)))
        for row in it.rows:
            versions[row.originator_id] += 1
            assert row.originator_version == versions[row.originator_id]
        if it.key is not None:
            assert it.key.key not in keys
            keys[it.key.key] = it
    ours = [row for row in log if row.stream in versions]
    assert len(ours) == sum(len(it.rows) for it, _ in stored)
    for it, outcome in callers.outcomes:
        if isinstance(outcome, Stored):
            continue
        assert not any(row.event_id in position_of for row in it.rows)
        if isinstance(outcome, Repeated):
            assert it.key is not None
            assert keys[it.key.key].key == outcome.first
        else:
            assert_true(outcome, it, versions)


def assert_true(conflict: Conflict, it: Command, last: dict[UUID, int]) -> None:
    """Check that what a conflict says may have been so."""
    expected = min(row.originator_version for row in it.rows if row.originator_id == conflict.stream_id) - 1
    assert conflict.expected == expected
    assert conflict.found != expected
    assert 0 <= conflict.found <= last[conflict.stream_id]


async def test_of_many_who_deploy_under_few_names_one_wins_each(url: str, commits: list[GroupCommit]) -> None:
    streams = [uuid4() for _ in range(20)]
    wanted = [command((stream, 1)) for stream in streams for _ in range(25)]
    random.shuffle(wanted)
    outcomes = await asyncio.gather(*(commits[n % 2].store_async(it) for n, it in enumerate(wanted)))
    assert sum(isinstance(it, Stored) for it in outcomes) == len(streams)
    assert sorted(row.stream for row in rows(url)) == sorted(streams)
