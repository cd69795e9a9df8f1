"""The Merkle tree against the figures that others publish, and against the definition in RFC 6962."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployledger.audit import merkle

# The leaves and roots that Certificate Transparency's own tests have.
LEAVES = [
    bytes.fromhex(it)
    for it in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def defined(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it, by recursion."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return sha256(b"\1" + defined(leaves[:middle]) + defined(leaves[middle:])).digest()


def hash_of(leaves: list[bytes]) -> merkle.HashOf:
    return lambda first, last: defined(leaves[first:last])


@pytest.mark.parametrize("size", range(9))
def test_the_roots_that_are_published(size: int) -> None:
    hashes = [merkle.leaf_hash(it) for it in LEAVES[:size]]
    assert merkle.root_of(hashes).hex() == ROOTS[size]


def test_the_proofs_that_are_published() -> None:
    path = merkle.inclusion_proof(5, 8, hash_of(LEAVES))
    assert [it.hex() for it in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    proof = merkle.consistency_proof(6, 8, hash_of(LEAVES))
    assert [it.hex() for it in proof] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@given(st.integers(1, 300), st.data())
def test_a_proof_leads_from_its_leaf_to_the_root_and_from_no_other(size: int, data: st.DataObject) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root = defined(leaves)
    proof = merkle.inclusion_proof(index, size, hash_of(leaves))
    assert merkle.root_from_inclusion(index, size, merkle.leaf_hash(leaves[index]), proof) == root
    assert merkle.root_from_inclusion(index, size, merkle.leaf_hash(b"other"), proof) != root
    for wrong in ([*proof, root], proof[:-1]):
        if wrong != proof:
            with pytest.raises(ValueError, match="too"):
                merkle.root_from_inclusion(index, size, merkle.leaf_hash(leaves[index]), wrong)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        altered = [*proof]
        altered[place] = merkle.leaf_hash(altered[place])
        assert merkle.root_from_inclusion(index, size, merkle.leaf_hash(leaves[index]), altered) != root


@given(st.integers(1, 200), st.integers(0, 100), st.data())
def test_a_longer_tree_is_consistent_and_another_one_is_not(
    first: int, more: int, data: st.DataObject
) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(first + more)]
    second = len(leaves)
    older, newer = defined(leaves[:first]), defined(leaves)
    proof = merkle.consistency_proof(first, second, hash_of(leaves))
    assert merkle.is_consistent(first, older, second, newer, proof)
    assert not merkle.is_consistent(first, merkle.leaf_hash(older), second, newer, proof)
    assert not merkle.is_consistent(first, older, second, merkle.leaf_hash(newer), proof)
    assert not merkle.is_consistent(first, older, second, newer, [*proof, older])
    changed = [*leaves]
    changed[data.draw(st.integers(0, first - 1))] = b"changed"
    others = merkle.consistency_proof(first, second, hash_of(changed))
    assert not merkle.is_consistent(first, older, second, defined(changed), others)


@given(st.integers(0, 300))
def test_peaks_have_the_root_of_all_that_was_added(size: int) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(size)]
    hashes = [merkle.leaf_hash(it) for it in leaves]
    peaks = merkle.Peaks()
    for start in range(0, size - size % 16, 16):
        peaks.add(merkle.root_of(hashes[start : start + 16]), height=4)
    behind = hashes[size - size % 16 :]
    assert peaks.root(behind) == defined(leaves)
    for it in behind:
        peaks.add(it)
    assert (peaks.size, peaks.root()) == (size, defined(leaves))
