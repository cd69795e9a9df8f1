"""Ages, durations, sizes, digests, times and marks as people read them."""

import re
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from deployledger.adapters.cli import marks, streams, units
from tests.e2e.in_process import Output

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
CET = timezone(timedelta(hours=1), "CET")


def test_what_has_not_come_yet_has_no_age() -> None:
    ages = [units.age(NOW + timedelta(seconds=it), NOW) for it in (-90, 0, 4, 6, 86_400)]
    assert ages == ["90s", "0s", "0s", "?", "?"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.00 s"),
        (0.034, "0.03 s"),
        (0.999, "1.0 s"),
        (4.23, "4.2 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (80, "1 min 20 s"),
        (7_500, "2 h 5 min"),
        (7_229, "2 h"),
        (3 * 86_400 + 4 * 3_600, "3 d 4 h"),
        (2_000 * 86_400, "2,000 d"),
    ],
)
def test_a_duration_has_its_largest_units(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (3_741, "3.7 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (300_000_000, "300 MB"),
        (999_999_999, "1.0 GB"),
        (2_500_000_000_000_000, "2,500.0 TB"),
    ],
)
def test_a_size_is_in_the_unit_that_fits(count: int, text: str) -> None:
    assert units.size(count) == text


def test_digests_are_short_and_nothing_else_is() -> None:
    digest, longer = "sha256:" + "ab" * 32, "sha256:" + "ab" * 33
    assert units.short_digests(f"iris@{digest}, {longer}.") == f"iris@sha256:abababab, {longer}."


def test_a_time_on_a_terminal_is_in_the_zone_of_its_reader() -> None:
    clock = units.Clock(NOW, CET)
    assert clock.moment(NOW - timedelta(minutes=3)) == "3m ago (12:57:00 CET)"
    assert clock.time(datetime(2026, 3, 2, 23, 30, tzinfo=UTC)) == "00:30:00", "today, where the reader is"
    assert clock.time(datetime(2026, 3, 1, 9, 5, tzinfo=UTC)) == "2026-03-01 10:05:00"
    assert clock.moment(NOW + timedelta(hours=1)) == "in the future (14:00:00 CET)"


def test_a_time_in_a_pipe_is_in_utc_and_can_be_given_back() -> None:
    clock = units.Clock.of(Console(file=StringIO()), NOW)
    assert clock.moment(NOW - timedelta(minutes=3)) == "3m ago (2026-03-03T11:57:00Z)"
    assert not clock.is_terminal


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_marks_are_as_wide_where_the_encoding_has_none(encoding: str) -> None:
    signs = [it.sign for it in vars(marks).values() if isinstance(it, marks.Mark)]
    output = Output(encoding=encoding)
    for sign in signs:
        streams.Stream(output, is_answer=True).write(sign)
    assert len(output.text) == len(signs) == len(set(output.text)), "each is told from the others"


def test_a_mark_is_coloured_and_its_word_as_it_was_given() -> None:
    marked = marks.FAILED.before(Text("failed"))
    assert (marked.plain, [str(it.style) for it in marked.spans]) == ("✗ failed", ["red"])


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/home/ann/iris-v2.onnx", "iris-v2.onnx"),
        ("file:///home/ann/my%20iris.onnx", "my iris.onnx"),
        ("/home/ann/iris/model.onnx", "iris/model.onnx"),
        ("models/iris/", "iris"),
        ("models:/wine/2", "models:/wine/2"),
        ("/", "/"),
        ("file://other/x", "file://other/x"),
    ],
)
def test_a_model_is_named_as_people_name_it(uri: str, name: str) -> None:
    assert units.model(uri) == name


def test_nothing_is_dim_or_of_a_colour_that_only_one_background_suits(request: pytest.FixtureRequest) -> None:
    folder = request.config.rootpath / "adapters" / "deployledger" / "adapters" / "cli"
    colours = r"dim|gr[ae]y\d*|bright_\w+|white|black|blue"
    for file in sorted(folder.glob("*.py")):
        used = re.search(rf'"(bold )?({colours})"|\[(bold )?({colours})\]', file.read_text())
        assert used is None, (file.name, used)
