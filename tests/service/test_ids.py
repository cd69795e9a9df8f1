"""Ids are random UUIDs like any other."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

from deployledger.service.ids import new_id


def test_ids_are_uuids_of_version_4() -> None:
    for _ in range(1000):
        made = new_id()
        assert (made.version, made.variant) == (4, RFC_4122)
        assert made == UUID(str(made)) == UUID(bytes=made.bytes) == pickle.loads(pickle.dumps(made))
        assert hash(made) == hash(UUID(str(made)))


def test_no_two_are_the_same_in_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [it for part in pool.map(lambda _: [new_id() for _ in range(5000)], range(8)) for it in part]
    assert len(set(made)) == len(made)


def test_a_forked_process_makes_others() -> None:
    new_id()
    context = multiprocessing.get_context("fork")
    with context.Pool(2, maxtasksperchild=1) as pool:
        made = {str(it) for it in pool.map(_make, range(4), chunksize=1)}
    assert len(made | {str(new_id()) for _ in range(1000)}) == 1004


def _make(_: int) -> UUID:
    return new_id()
