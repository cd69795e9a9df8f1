"""Foreign text as people are shown it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployledger.domain.visible import visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 7 µm – 漢字 ✓ 🌷 ⚠️", "Größe 7 µm – 漢字 ✓ 🌷 ⚠️"),
        (r"C:\models\x1b", r"C:\models\x1b"),
        ("\x1b[2K", r"\u001b[2K"),
        ("\x00\x07\x08\x0b\x0c\x7f", r"\u0000\u0007\u0008\u000b\u000c\u007f"),
        ("\x9b31m\x85", r"\u009b31m\u0085"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202e\u2066\u2069\u200e\u061c", r"\u202e\u2066\u2069\u200e\u061c"),
        ("a\u200bb\u200d\ufeff\u00ad\u2060", r"a\u200bb\u200d\ufeff\u00ad\u2060"),
        ("\u2028\u2029\xa0\u3000", r"\u2028\u2029\u00a0\u3000"),
        ("\u3164\u115f\uffa0\u2800\u034f", r"\u3164\u115f\uffa0\u2800\u034f"),
        ("\U000e0041\ue000", r"\udb40\udc41\ue000"),
        ("\ud800\udfff", r"\ud800\udfff"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + r"\u0301\u0301"),
    ],
)
def test_what_cannot_be_seen_is_spelled_as_in_json(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_stay_lines_and_tabs_become_spaces() -> None:
    assert visible_lines("a\tb\r\nc\x1b[A\n") == "a       b\nc\\u001b[A\n"


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_acts_is_left_of_any_text(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(it) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for it in shown)
    assert visible(shown) == shown or "\\u03" in shown or any(map(unicodedata.combining, shown))
    shown.encode()
