"""The ledger of a log: its roots, its proofs and its checkpoints, however it grew."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import keys, merkle
from deployledger.audit.checkpoints import open_checkpoint
from deployledger.audit.keys import Signer
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger import Ledger
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import ConfigurationError, EventLogError, LedgerError
from tests.domain.given import fetched, requested
from tests.projections.examples import by_hand


def add(log: DatabaseEventLog, streams: int, first: int = 1) -> None:
    """Add so many streams of two events to a log."""
    ids = [UUID(int=number) for number in range(first, first + streams)]
    log.append([requested()(stream, 1) for stream in ids])
    log.append([fetched()(stream, 2) for stream in ids])


def leaves(log: DatabaseEventLog, size: int) -> list[bytes]:
    pages = undamaged(log.records(until=size, metadata=True))
    return [encode_leaf(*record) for page in pages for record in page]


@pytest.mark.parametrize("streams", [1, 127, 128, 129, 400])
def test_the_root_is_that_of_all_leaves_in_order(log: DatabaseEventLog, ledger: Ledger, streams: int) -> None:
    assert ledger.root() == merkle.EMPTY_ROOT
    add(log, 3)
    assert ledger.root() == merkle.root_of([merkle.leaf_hash(it) for it in leaves(log, 6)])
    add(log, streams, first=10)
    hashes = [merkle.leaf_hash(it) for it in leaves(log, log.position())]
    for size in {0, 1, 5, 6, 7, len(hashes) // 2, len(hashes) - 1, len(hashes)}:
        assert ledger.root(size) == merkle.root_of(hashes[:size])
    assert ledger.size() == len(hashes) == 6 + 2 * streams


def test_a_tree_of_three_levels_of_tiles(log: DatabaseEventLog, ledger: Ledger) -> None:
    add(log, 20)
    for number in range(16):
        add(log, 2_080, first=1_000 + number * 10_000)
        if number % 5 == 0:
            ledger.integrate()
    hashes = [merkle.leaf_hash(it) for it in leaves(log, log.position())]
    assert len(hashes) > 65_536
    assert ledger.root() == merkle.root_of(hashes)
    assert ledger.root(65_535) == merkle.root_of(hashes[:65_535])
    for position in (1, 256, 257, 65_536, 65_537, len(hashes)):
        proof = ledger.prove(position)
        assert proof.holds()
        assert (proof.root, merkle.leaf_hash(proof.leaf)) == (ledger.root(), hashes[position - 1])


def test_proofs_hold_in_the_tree_of_any_later_size(log: DatabaseEventLog, ledger: Ledger) -> None:
    add(log, 150)
    for size in (1, 2, 255, 256, 257, 300):
        root = ledger.root(size)
        for position in {1, size // 2 + 1, size}:
            proof = ledger.prove(position, size)
            assert proof.holds()
            assert (proof.root, proof.size) == (root, size)
        path = ledger.prove_consistency(size).path
        assert merkle.is_consistent(size, root, 300, ledger.root(), path)


def test_several_processes_make_the_same_tree(log: DatabaseEventLog, database_url: str) -> None:
    add(log, 300)
    logs = [open_event_log(database_url, pool_size=size) for size in (3, 4, 5)]
    ledgers = [open_ledger(it) for it in logs]
    with ThreadPoolExecutor() as pool:
        roots = set(pool.map(lambda it: it.root(600), ledgers))
    assert roots == {merkle.root_of([merkle.leaf_hash(it) for it in leaves(log, 600)])}
    for it in logs:
        it.close()


class Kept:
    """A place for checkpoints in memory."""

    def __init__(self) -> None:
        self.published: list[StoredCheckpoint] = []

    def publish(self, checkpoint: StoredCheckpoint) -> None:
        self.published.append(checkpoint)

    def newest_first(self) -> list[tuple[str, str]]:
        return [("kept", it.note) for it in reversed(self.published)]


def test_a_checkpoint_signs_the_state_of_the_log(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    kept = Kept()
    ledger = Ledger(log, ledger.store, signer=signer, place=kept)
    add(log, 2)
    first = ledger.checkpoint()
    assert ledger.checkpoint() == first
    add(log, 2, first=5)
    second = ledger.checkpoint()
    assert [it.size for it in ledger.checkpoints()] == [4, 8]
    assert kept.published == [first, first, second]
    opened = open_checkpoint(second.note, [signer.verifier])
    assert (opened.size, opened.root) == (8, ledger.root()) == (second.size, second.root)


def test_a_log_that_contradicts_what_was_published_is_not_signed(signer: Signer) -> None:
    kept = Kept()
    for streams, refused in ((3, False), (3, False), (2, True), (4, True)):
        with closing(open_event_log("sqlite://")) as log:
            add(log, streams)  # each time it is another log: its events have other ids
            ledger = open_ledger(log, signer=signer, place=kept)
            if refused:
                with pytest.raises(LedgerError, match="an earlier checkpoint of its first 6 events"):
                    ledger.checkpoint()
            else:
                kept.published.clear()
                ledger.checkpoint()
            ledger.store.close()
    assert [it.size for it in kept.published] == [6]


def test_what_another_process_signs_meanwhile_is_no_contradiction(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    class Overtaken(Kept):
        """A place that is being read while another process signs more."""

        def newest_first(self) -> list[tuple[str, str]]:
            add(log, 2, first=5)
            self.published.append(Ledger(log, ledger.store, signer=signer).checkpoint())
            return super().newest_first()

    add(log, 2)
    kept = Overtaken()
    made = Ledger(log, ledger.store, signer=signer, place=kept).checkpoint()
    assert made.size == 8
    assert made.root == ledger.root()
    assert {it.note for it in kept.published} == {made.note}


def test_another_key_has_checkpoints_of_its_own(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    add(log, 2)
    other = Signer.parse(keys.generate("example.com/other")[0])
    notes = [ledger.checkpoint(signer).note, ledger.checkpoint(other).note]
    assert [it.note for it in ledger.checkpoints()] == notes


def test_without_a_key_there_is_no_checkpoint(log: DatabaseEventLog, ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="No key"):
        ledger.checkpoint()


@pytest.mark.parametrize("size", [-1, 5, True, "3", 1 << 70])
def test_sizes_that_there_are_not(log: DatabaseEventLog, ledger: Ledger, size: object) -> None:
    add(log, 2)
    with pytest.raises(ConfigurationError, match="no tree of"):
        ledger.root(size)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="There is no"):
        ledger.prove(size, 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Cannot prove consistency"):
        ledger.prove_consistency(size)  # type: ignore[arg-type]


def test_a_log_that_is_shorter_than_its_ledger_is_refused(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    add(log, 2)
    with closing(open_event_log("sqlite://")) as other:
        add(other, 1)
        on_other = Ledger(other, ledger.store)
        ledger.checkpoint(signer)
        with pytest.raises(LedgerError, match="ends at position 2, and its ledger at 4"):
            on_other.integrate()
        add(other, 3, first=50)
        with pytest.raises(LedgerError, match="Event 4 of the log is not the one"):
            on_other.checkpoint(signer)


def test_the_paths_of_many_events_are_those_of_their_proofs(
    log: DatabaseEventLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(log, 150)
    monkeypatch.setattr("deployledger.audit.tiles._TILES_KEPT", 1)
    for size in (1, 257, 300):
        path_of = ledger.paths(size)
        for position in range(1, size + 1, 16):
            assert tuple(path_of(position)) == ledger.prove(position, size).path
    with pytest.raises(ConfigurationError):
        ledger.paths(301)


def test_a_tree_that_was_removed_under_an_open_process_is_made_anew(
    log: DatabaseEventLog, ledger: Ledger, database_url: str
) -> None:
    add(log, 2)
    root = ledger.root()
    if database_url.startswith("postgresql:"):
        by_hand(database_url, "DROP TABLE @ledger, @ledger_tiles, @ledger_checkpoints")
        with pytest.raises(EventLogError, match="does not exist"):
            ledger.root()
    else:
        path = Path(f"{database_url.removeprefix('sqlite:///')}.ledger")
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    assert ledger.root() == root


def test_a_file_that_another_process_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployledger.adapters.ledger.sqlite._BUSY_SECONDS", 0.1)
    path = tmp_path / "events.db"
    with closing(open_event_log(f"sqlite:///{path}")) as log:
        ledger = open_ledger(log)
        add(log, 2)
        ledger.root()
        add(log, 2, first=5)
        with closing(sqlite3.connect(f"{path}.ledger", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(EventLogError, match="database is locked") as refused:
                ledger.root()
        assert refused.value.hint == "Another process has been writing to it for a long time. Try again."
        ledger.store.close()
