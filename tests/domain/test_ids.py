"""Random ids."""

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deployledger.domain.ids import new_id


def test_ids_are_random_uuids() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert {made.version for made in ids} == {4}
    assert {made.variant for made in ids} == {"specified in RFC 4122"}


def test_ids_of_threads_differ() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_id(), range(10_000)))
    assert len(set(made)) == len(made)


def test_a_seed_of_the_application_does_not_repeat_ids() -> None:
    random.seed(1)
    first = new_id()
    random.seed(1)
    assert new_id() != first


def _send(results: Any) -> None:
    results.put([new_id() for _ in range(100)])


def test_ids_of_forked_processes_differ() -> None:
    fork = multiprocessing.get_context("fork")
    results: Any = fork.Queue()
    children = [fork.Process(target=_send, args=(results,)) for _ in range(3)]
    for child in children:
        child.start()
    made = [made for _ in children for made in results.get(timeout=60)]
    for child in children:
        child.join()
    made += [new_id() for _ in range(100)]
    assert len(set(made)) == 400
