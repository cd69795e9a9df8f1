"""The encoding of leaves is what the documentation says, and never changes."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployledger.audit import merkle
from deployledger.audit.leaf import encode_leaf

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()


def documented() -> list[bytes]:
    """Return the leaves of the table of test vectors."""
    rows = {
        cells[0]: cells[1:]
        for line in PAGE[PAGE.index("| | Event 1") :].splitlines()
        if line.startswith("| ") and len(cells := [it.strip(" `") for it in line.strip("|").split("|")]) == 3
    }
    stream = UUID("d0000000-0000-4000-8000-000000000001").bytes
    leaves = []
    for number in range(2):
        row = {name: None if cells[number] == "none" else cells[number] for name, cells in rows.items()}
        recorded = datetime.fromisoformat(str(row["recorded"])) - datetime(1970, 1, 1, tzinfo=UTC)
        ids = {name: row[name] and UUID(str(row[name])).bytes for name in row if name.endswith(" id")}
        leaves.append(
            encode_leaf(
                number + 1,
                stream,
                number + 1,
                str(row["topic"]),
                str(row["state"]).encode(),
                ids["event id"] or b"",
                recorded.days * 86_400_000_000 + recorded.seconds * 1_000_000 + recorded.microseconds,
                row["actor"],
                ids["correlation id"] or None,
                ids["causation id"] or None,
            )
        )
    return leaves


def test_the_test_vectors() -> None:
    told = dict(re.findall(r"^((?:leaf|hash|root)[^\n]*)\n([0-9a-f\n]+)$", PAGE, re.MULTILINE))
    vectors = {name: value.replace("\n", "") for name, value in told.items()}
    first, second = documented()
    hashes = [merkle.leaf_hash(first), merkle.leaf_hash(second)]
    assert vectors == {
        "leaf 1": first.hex(),
        "leaf 2": second.hex(),
        "hash of leaf 1": hashes[0].hex(),
        "hash of leaf 2": hashes[1].hex(),
        "root of both": merkle.root_of(hashes).hex(),
    }


IDS = st.binary(min_size=16, max_size=16)
NUMBERS = st.integers(1, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EVENTS = st.tuples(
    NUMBERS,
    IDS,
    NUMBERS,
    TEXTS,
    st.binary(max_size=20),
    IDS,
    st.integers(-(2**63), 2**63 - 1),
    st.none() | TEXTS,
    st.none() | IDS,
    st.none() | IDS,
)


@given(EVENTS, EVENTS)
def test_two_events_never_have_the_same_leaf(first: tuple, second: tuple) -> None:  # type: ignore[type-arg]
    assert (encode_leaf(*first) == encode_leaf(*second)) == (first == second)


@pytest.mark.parametrize(
    ("place", "value"), [(0, -1), (2, 1 << 64), (3, "x" * 70_000), (6, 1 << 63), (6, None), (4, None)]
)
def test_what_no_leaf_has_room_for(place: int, value: object) -> None:
    event: list[object] = [1, bytes(16), 1, "topic", b"{}", bytes(16), 0, None, None, None]
    event[place] = value
    with pytest.raises((ValueError, TypeError)):
        encode_leaf(*event)  # type: ignore[arg-type]
