"""The ledger beside an implementation of RFC 6962 that others wrote: each takes what the other made."""

import random
from uuid import UUID

import pytest
import tamperlog
from hypothesis import given, settings
from hypothesis import strategies as st

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.audit import merkle
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger import Ledger
from deployledger.domain.event_records import undamaged
from tests.domain.given import fetched, requested


def hash_of(hashes: list[bytes]) -> merkle.HashOf:
    return lambda first, last: tamperlog.merkle_root(hashes[first:last])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=300), st.data())
def test_proofs_of_either_hold_for_the_other(leaves: list[bytes], data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(it) for it in leaves]
    assert hashes == [tamperlog.hash_leaf(it) for it in leaves]
    size = len(leaves)
    root = merkle.root_of(hashes)
    assert root == tamperlog.merkle_root(hashes)

    index = data.draw(st.integers(0, size - 1))
    ours, theirs = (
        merkle.inclusion_proof(index, size, hash_of(hashes)),
        tamperlog.inclusion_proof(index, hashes),
    )
    assert ours == theirs
    tamperlog.verify_inclusion(index, size, hashes[index], ours, root)
    assert merkle.root_from_inclusion(index, size, hashes[index], theirs) == root

    first = data.draw(st.integers(1, size))
    older = tamperlog.merkle_root(hashes[:first])
    ours, theirs = (
        merkle.consistency_proof(first, size, hash_of(hashes)),
        tamperlog.consistency_proof(first, hashes),
    )
    assert ours == theirs
    tamperlog.verify_consistency(first, older, size, root, ours)
    assert merkle.is_consistent(first, older, size, root, theirs)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(0, 60), st.data())
def test_both_refuse_the_same_proofs(first: int, more: int, data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(bytes([it])) for it in range(first + more)]
    size = len(hashes)
    root, older = tamperlog.merkle_root(hashes), tamperlog.merkle_root(hashes[:first])
    index = data.draw(st.integers(0, size - 1))

    def altered(proof: list[bytes]) -> list[bytes]:
        pool = [*proof, root, older, hashes[0]]
        return data.draw(st.one_of(st.just(proof), st.permutations(proof), st.lists(st.sampled_from(pool))))

    def agrees(holds: bool, check: object, *arguments: object) -> None:
        try:
            check(*arguments)  # type: ignore[operator]
        except tamperlog.ProofError:
            assert not holds
        else:
            assert holds

    path = altered(tamperlog.inclusion_proof(index, hashes))
    claimed = data.draw(st.integers(0, size - 1))
    try:
        holds = merkle.root_from_inclusion(claimed, size, hashes[index], path) == root
    except ValueError:
        holds = False
    agrees(holds, tamperlog.verify_inclusion, claimed, size, hashes[index], path, root)

    proof = altered(tamperlog.consistency_proof(first, hashes))
    holds = merkle.is_consistent(first, older, size, root, proof)
    agrees(holds, tamperlog.verify_consistency, first, older, size, root, proof)


@pytest.mark.parametrize("streams", [3, 128, 333])
def test_the_ledger_of_a_log_is_the_tree_that_others_make_of_its_leaves(
    log: DatabaseEventLog, ledger: Ledger, streams: int
) -> None:
    ids = [UUID(int=number) for number in range(streams)]
    log.append([requested()(it, 1) for it in ids])
    ledger.integrate()
    log.append([fetched()(it, 2) for it in ids])
    size = 2 * streams
    hashes = [
        tamperlog.hash_leaf(encode_leaf(*record))
        for page in undamaged(log.records(after=0, until=size, metadata=True))
        for record in page
    ]
    for it in {1, 2, streams, size - 1, size, *random.choices(range(1, size), k=5)}:
        assert ledger.root(it) == tamperlog.merkle_root(hashes[:it])
        for position in {1, it, random.randint(1, it)}:
            proof = ledger.prove(position, it)
            assert list(proof.path) == tamperlog.inclusion_proof(position - 1, hashes[:it])
            tamperlog.verify_inclusion(position - 1, it, hashes[position - 1], list(proof.path), proof.root)
        path = [*ledger.prove_consistency(it).path]
        assert path == tamperlog.consistency_proof(it, hashes)
        tamperlog.verify_consistency(it, ledger.root(it), size, ledger.root(), path)
