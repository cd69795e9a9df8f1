"""The ledger of an event log: a Merkle tree over all events, in the order of the log."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Protocol

from deployledger.audit import merkle
from deployledger.audit.checkpoints import Checkpoint, Claim, Continuation, open_checkpoint
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger_store import TILE_WIDTH, LedgerStore, StoredCheckpoint
from deployledger.audit.log_check import LogCheck, check_log
from deployledger.audit.log_parts import CheckParts, check_here
from deployledger.audit.proofs import ConsistencyProof, InclusionProof
from deployledger.audit.signed_notes import NoteError
from deployledger.audit.tiles import GrowingTree, Tree, hash_in
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import VERIFY_HINT, ConfigurationError, LedgerError
from deployledger.domain.findings import Finding
from deployledger.projections.partitioning import Progress

_INTEGRATED_AT_ONCE = 64 * TILE_WIDTH
_AGAIN_SECONDS = 0.05
_TRIES = 100
_HASHES_KEPT = 65_536
"""How many hashes of a tree are kept while many paths are asked for."""
_LOOKED_BACK = 100
"""Among how many checkpoints, of all keys, the last one of each key is looked for."""
_DATABASE = "in the database"


class CheckpointPlace(Protocol):
    """Where checkpoints are published: where who can change the database cannot change them."""

    def publish(self, checkpoint: StoredCheckpoint) -> object:
        """Keep a checkpoint; one that is there already is not replaced."""
        ...

    def newest_first(self) -> Iterable[tuple[str, str | bytes]]:
        """Return the last checkpoints of each key, the largest first: where each is from, and the note."""
        ...


class Ledger:
    """The tree over an event log, its checkpoints, and proofs. Methods block; any thread may call them.

    The tree grows when it is asked for something: appending to the log does not wait for it.

    Args:
        log: the events.
        store: where the tree and the checkpoints are kept.
        signer: what signs checkpoints, where none is given.
        place: where checkpoints are published.
        check: reads and checks parts of the log, by several workers at once if it can.
    """

    def __init__(
        self,
        log: EventLog,
        store: LedgerStore,
        *,
        signer: Signer | None = None,
        place: CheckpointPlace | None = None,
        check: CheckParts = check_here,
    ) -> None:
        self.log = log
        self.store = store
        self.signer = signer
        self.place = place
        self._check = check
        self._turn = threading.Lock()

    def integrate(self) -> int:
        """Add every event of the log that the tree has not, and return how many leaves it has then.

        Raises:
            LedgerError: if the log is not the one that the tree was made of: it was truncated, or changed.
        """
        end = self.log.position()
        with self._turn:
            for _ in range(_TRIES):
                size = self.store.size()
                self._check_is_of_log(size, end)
                if size >= end or self._extend(size, end):
                    return max(size, end)
                time.sleep(_AGAIN_SECONDS)  # another process is at it
        raise LedgerError("Other processes keep extending the ledger.", hint="Try again.")

    def _check_is_of_log(self, size: int, end: int) -> None:
        if size > end and size > self.log.position():
            raise LedgerError(
                f"The event log ends at position {end}, and its ledger at {size}: the log was truncated, "
                "or another one was put in its place.",
                hint=VERIFY_HINT,
            )
        if size:
            page = next(undamaged(self.log.records(after=size - 1, until=size, metadata=True)), ())
            number = size - 1
            tile = self.store.tiles(0, number // TILE_WIDTH, number // TILE_WIDTH)
            expected = hash_in(tile.get(number // TILE_WIDTH, b""), number % TILE_WIDTH)
            if not page or merkle.leaf_hash(encode_leaf(*page[0])) != expected:
                raise LedgerError(
                    f"Event {size} of the log is not the one that the ledger has there: the log was changed, "
                    "or another one was put in its place.",
                    hint=VERIFY_HINT,
                )

    def _extend(self, size: int, end: int) -> bool:
        """Add leaves from one size to another; False if another process did so meanwhile."""
        tiles = GrowingTree(self.store, size)
        before, expected = size, size
        for page in undamaged(self.log.records(after=size, until=end, metadata=True)):
            for record in page:
                expected += 1
                if record[0] != expected:
                    raise LedgerError(
                        f"Event {expected} is missing in the log: the next one has position {record[0]}.",
                        hint=VERIFY_HINT,
                    )
                tiles.add(merkle.leaf_hash(encode_leaf(*record)))
            if expected - before >= _INTEGRATED_AT_ONCE:
                if not self.store.extend(before, expected, tiles.changed()):
                    return False
                before = expected
        if expected != end:
            raise LedgerError(f"Event {expected + 1} is missing in the log.", hint=VERIFY_HINT)
        return self.store.extend(before, end, tiles.changed())

    def size(self) -> int:
        """Return how many leaves the tree has, without making it grow."""
        self.log.position()  # this opens the log's database, which may be that of the ledger
        return self.store.size()

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the tree over all events up to a position; of all there are without one.

        Raises:
            ConfigurationError: if the log has no such position.
            LedgerError: as for `integrate`.
        """
        size = self._checked(size)
        return Tree(self.store).root(size)

    def prove(self, position: int, size: int | None = None) -> InclusionProof:
        """Return the proof that an event is in the tree over all events up to another position.

        Raises:
            ConfigurationError: if the log has no such position, or the event comes after it.
            LedgerError: as for `integrate`; and if the event is not the one that the tree has.
        """
        size = self._checked(size)
        if isinstance(position, bool) or not isinstance(position, int) or not 1 <= position <= size:
            raise ConfigurationError(
                f"There is no event {position!r} among the first {size:,}.",
                hint=f"Positions are 1 to {size:,}.",
            )
        tree = Tree(self.store)
        path = tuple(merkle.inclusion_proof(position - 1, size, tree.hash_of))
        page = next(undamaged(self.log.records(after=position - 1, until=position, metadata=True)), ())
        if not page:
            raise LedgerError(f"Event {position} is missing in the log.", hint=VERIFY_HINT)
        proof = InclusionProof(position, encode_leaf(*page[0]), size, tree.hash_of(0, size), path)
        if not proof.holds():
            raise LedgerError(
                f"Event {position} of the log is not the one that the ledger has there: it was changed.",
                hint=VERIFY_HINT,
            )
        return proof

    def paths(self, size: int) -> Callable[[int], list[bytes]]:
        """Return a source of the paths of a tree of this size: fast for many positions, as it reads once.

        Raises:
            ConfigurationError: if the log has no such position.
            LedgerError: as for `integrate`.
        """
        size = self._checked(size)
        hash_of = lru_cache(_HASHES_KEPT)(Tree(self.store).hash_of)
        return lambda position: merkle.inclusion_proof(position - 1, size, hash_of)

    def prove_consistency(self, first: int, second: int | None = None) -> ConsistencyProof:
        """Return the proof that the tree up to one position only adds to that up to an earlier one.

        Raises:
            ConfigurationError: if the log has no such positions.
            LedgerError: as for `integrate`.
        """
        second = self._checked(second)
        if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first <= second:
            raise ConfigurationError(
                f"Cannot prove consistency between {first!r} and {second:,} events.",
                hint=f"The earlier size must be 1 to {second:,}." if second else "The log has no events.",
            )
        tree = Tree(self.store)
        path = merkle.consistency_proof(first, second, tree.hash_of)
        return ConsistencyProof(first, tree.root(first), second, tree.root(second), tuple(path))

    def _checked(self, size: int | None) -> int:
        end = self.integrate()
        if size is None:
            return end
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= end:
            raise ConfigurationError(
                f"There is no tree of {size!r} events: the log has {end:,}.",
                hint=f"A size is 0 to {end:,}.",
            )
        return size

    def checkpoint(
        self, signer: Signer | None = None, *, place: CheckpointPlace | None = None
    ) -> StoredCheckpoint:
        """Sign the current state of the log, and store and publish the checkpoint.

        If nothing was added since the last checkpoint of this key, that one is returned, and published again.
        A log that does not continue the last checkpoint of every key, in the database or published, is not
        signed. If the last one is of another key, as after a change of keys, the new one names it.

        Args:
            signer: the key; None means that of the ledger.
            place: where to publish it; None means that of the ledger, if it has one.

        Raises:
            ConfigurationError: if there is no key to sign with.
            LedgerError: as for `integrate`; and if an earlier checkpoint does not fit: the log was rewritten.
        """
        signer = signer or self.signer
        if signer is None:
            raise ConfigurationError(
                "No key to sign checkpoints was given.",
                hint="`deployledger audit keygen` makes one; --key or DEPLOYLEDGER_AUDIT_KEY names it.",
            )
        place = place or self.place
        # Read before the log is: another process may sign what comes meanwhile, of which we know nothing.
        self.log.position()  # as above
        stored = self.store.checkpoints(limit=_LOOKED_BACK)[::-1]
        earlier = _last_of_each_key([(_DATABASE, checkpoint.note) for checkpoint in stored], signer)
        if place is not None:
            earlier += _last_of_each_key(place.newest_first(), signer)
        size = self.integrate()
        tree = Tree(self.store)
        for previous in earlier:
            signed, key_id = previous.claim.checkpoint, previous.claim.key_id.hex()
            if signed.size > size or tree.root(signed.size) != signed.root:
                raise LedgerError(
                    f"The log contradicts an earlier checkpoint of its first {signed.size:,} events "
                    f"({signed.origin}, key {key_id}; {previous.source}): it was rewritten, or "
                    "replaced by another one.",
                    hint=f"{VERIFY_HINT} If that checkpoint belongs to another log, publish the "
                    "checkpoints of this one in a folder of their own.",
                )
        last = _last_stored(stored, signer)
        if last is None or last.size != size:
            continues = _continuation(earlier, signer)
            checkpoint = Checkpoint(signer.name, size, tree.root(size), continues)
            last = StoredCheckpoint(size, checkpoint.root, checkpoint.signed(signer), datetime.now(UTC))
            self.store.add_checkpoint(last)
        if place is not None:
            place.publish(last)
        return last

    def checkpoints(self) -> list[StoredCheckpoint]:
        """Return the checkpoints that are in the database, the smallest first."""
        self.log.position()  # as above
        return self.store.checkpoints()

    def verify(
        self,
        verifiers: Sequence[Verifier],
        checkpoints: Sequence[tuple[str, str | bytes]] = (),
        *,
        since: str | bytes | None = None,
        workers: int = 1,
        beside: Sequence[Finding] = (),
        progress: Progress = lambda done, total: None,
    ) -> LogCheck:
        """Read the log, and verify it; docs/ledger.md lists the checks.

        Args:
            verifiers: the public keys whose signatures count.
            checkpoints: where each is from, and the signed note; those in the database are checked as well.
            since: a checkpoint up to which the log was verified before: only what came after it is read.
            workers: how many processes do the work; with one it is done in this process.
            beside: what checks of other databases than the log's and the ledger's found.
            progress: called with the number of events read, and the total.

        Raises:
            ConfigurationError: if ``since`` is no checkpoint of these keys, there are checkpoints and no key
                to verify them with, or the number of workers is out of range.
            LedgerError: if the stored tree does not lead to the checkpoint ``since``.
        """
        return check_log(
            self.log,
            self.store,
            verifiers,
            checkpoints,
            since=since,
            workers=workers,
            beside=beside,
            check_parts=self._check,
            progress=progress,
        )


@dataclass(frozen=True)
class _Earlier:
    """A checkpoint that there is already, and where."""

    source: str
    claim: Claim

    @property
    def key(self) -> tuple[str, bytes]:
        """Name and id of the key that signed it."""
        return self.claim.checkpoint.origin, self.claim.key_id

    @property
    def size(self) -> int:
        """How many events it covers."""
        return self.claim.checkpoint.size


def _last_of_each_key(notes: Iterable[tuple[str, str | bytes]], signer: Signer) -> list[_Earlier]:
    """Return the largest checkpoint of each key.

    Signatures of other keys cannot be verified here. Their checkpoints count all the same: who has a new key
    could otherwise sign a log that contradicts what the old one signed.
    """
    last: dict[tuple[str, bytes], _Earlier] = {}
    for source, note in islice(notes, _LOOKED_BACK):
        try:
            earlier = _Earlier(source, Claim.of(note))
            if earlier.key == _key(signer):
                open_checkpoint(note, [signer.verifier])
        except NoteError:  # it is no checkpoint, or was changed, which verifying tells
            continue
        if earlier.key not in last or last[earlier.key].size < earlier.size:
            last[earlier.key] = earlier
    return list(last.values())


def _key(signer: Signer) -> tuple[str, bytes]:
    return signer.name, signer.verifier.key_id


def _continuation(earlier: Sequence[_Earlier], signer: Signer) -> Continuation | None:
    """Return the last checkpoint, if it is of another key than the one that signs."""
    own = max((checkpoint.size for checkpoint in earlier if checkpoint.key == _key(signer)), default=-1)
    last = max(earlier, key=lambda checkpoint: checkpoint.size, default=None)
    if last is None or last.size <= own:
        return None
    return Continuation(*last.key, last.size, last.claim.checkpoint.root)


def _last_stored(stored: Sequence[StoredCheckpoint], signer: Signer) -> StoredCheckpoint | None:
    """Return the largest checkpoint in the database that a key signed, with what it signed."""
    for checkpoint in stored:
        try:
            signed = open_checkpoint(checkpoint.note, [signer.verifier])
        except NoteError:  # as above
            continue
        return replace(checkpoint, size=signed.size, root=signed.root)
    return None
