"""Following, rebuilding and folding from scratch give the same rows, whatever the history."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployledger.adapters.read_models import postgres
from deployledger.domain.event_log import version_of
from deployledger.domain.events import DeploymentEvent
from deployledger.projections import applying, rebuilding
from deployledger.projections.read_models import ReadModels
from tests.domain.given import SERVING, history, requested
from tests.faults.conftest import times
from tests.projections.examples import (
    EXAMPLES,
    append_some_undecodable,
    append_undecodable,
    assert_folded,
    catch_all_up,
    empty,
    histories,
    opened,
    read_tables,
    tables,
)

SETTINGS = settings(
    max_examples=times(12, 1000),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink takes minutes with a real database
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class KilledError(Exception):
    """The process ended here, as far as the database sees."""


@contextmanager
def killed_at(models: ReadModels, steps: set[int]) -> Iterator[None]:
    """End the transaction at some of the steps of those who apply events: each save, each advance."""
    number = iter(range(1_000_000))

    def step() -> None:
        if next(number) in steps:
            raise KilledError

    class Dying:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def table(self, *arguments: Any) -> Any:
            return Dying(self._inner.table(*arguments))

        def save(self, changes: Any) -> None:
            step()
            self._inner.save(changes)
            step()

        def advance(self, *arguments: Any) -> None:
            step()
            self._inner.advance(*arguments)
            step()

    applying = models.store.applying

    @contextmanager
    def dying(projections: Sequence[Any]) -> Iterator[Any]:
        with applying(projections) as inner:
            yield Dying(inner)

    with mock.patch.object(models.store, "applying", dying):
        yield


def catch_up_again_and_again(models: ReadModels) -> int:
    """Apply everything, however often it is cut off; return how often it was."""
    killed = 0
    while True:
        try:
            catch_all_up(models)
        except KilledError:
            killed += 1
        else:
            return killed


def portions(past: Sequence[DeploymentEvent], sizes: Sequence[int]) -> Iterator[Sequence[DeploymentEvent]]:
    left, number = list(past), 0
    while left:
        size = sizes[number % len(sizes)]
        yield left[:size]
        left, number = left[size:], number + 1


@SETTINGS
@given(
    past=histories(),
    appended=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    applied=st.integers(1, 9),
    at_hand=st.integers(0, 3),
    kills=st.sets(st.integers(0, 60), max_size=8),
    undecodable=st.sets(st.integers(0, 40), max_size=2),
)
def test_following_and_rebuilding_give_the_rows_of_a_plain_fold(
    past: list[DeploymentEvent],
    appended: list[int],
    applied: int,
    at_hand: int,
    kills: set[int],
    undecodable: set[int],
    database_url: str,
) -> None:
    empty(database_url)
    spoilt = {past[number].event_id for number in undecodable if number < len(past)}
    with (
        opened(database_url, *EXAMPLES) as models,
        mock.patch.object(applying, "APPLIED_AT_ONCE", applied),
        mock.patch.object(rebuilding, "_ROWS_AT_HAND", at_hand),
        mock.patch.object(postgres, "_COPIED_FROM", at_hand),
    ):
        with killed_at(models, kills):
            for portion in portions(past, appended):
                append_some_undecodable(models.log, portion, spoilt)
                catch_up_again_and_again(models)
        assert_folded(models)
        models.rebuild(list(models.projections))
        assert_folded(models)
        assert not any(it.differences for it in models.verify(list(models.projections)))
        assert tables(database_url) == read_tables(models)


def test_a_kill_is_a_kill(database_url: str) -> None:
    with opened(database_url, *EXAMPLES) as models:
        models.log.append(history(*SERVING))
        with killed_at(models, {0, 3, 5}):
            assert catch_up_again_and_again(models) == 3
        assert_folded(models)


@settings(SETTINGS, max_examples=times(2, 40))
@given(pasts=st.lists(histories(longest=60), min_size=1, max_size=2), workers=st.integers(2, 4))
def test_workers_give_the_rows_of_a_plain_fold(
    pasts: list[list[DeploymentEvent]], workers: int, database_url: str
) -> None:
    empty(database_url)
    with opened(database_url, *EXAMPLES) as models:
        for past in pasts:
            if not {it.originator_id for it in past} & {
                it.originator_id for other in pasts if other is not past for it in other
            }:
                models.log.append(past)
        if models.log.position():
            stream = pasts[0][0].originator_id
            append_undecodable(models.log, stream, version_of(models.log, stream) + 1)
        seen: list[tuple[int, int]] = []
        models.rebuild(list(models.projections), workers=workers, progress=lambda *it: seen.append(it))
        assert_folded(models)
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert tables(database_url) == read_tables(models)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rebuild_while_events_are_appended(workers: int, database_url: str) -> None:
    stopping = threading.Event()
    with opened(database_url, *EXAMPLES) as models, opened(database_url, *EXAMPLES) as other:

        def append() -> None:
            number = 0
            while not stopping.is_set():
                number += 1
                stream = requested()(_stream(number), 1).originator_id
                other.log.append(history(*SERVING[: number % 4 + 1], stream=stream))
                stopping.wait(0.02)

        writer = threading.Thread(target=append)
        writer.start()
        try:
            for _ in range(times(3, 100)):
                before = models.log.position()
                for it in models.rebuild(list(models.projections), workers=workers):
                    assert it.position >= before
                for verified in models.verify(list(models.projections)):
                    assert not verified.differences
        finally:
            stopping.set()
            writer.join()
        catch_all_up(models)
        assert_folded(models)
        assert tables(database_url) == read_tables(models)


def _stream(number: int) -> Any:
    from uuid import UUID

    return UUID(int=number << 100 | 0x4000 << 64 | number)
