"""Every version of every event that was ever released can be read; a changed event is a new version."""

import json
import sys
from abc import ABC
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent
from pydantic import BaseModel, Field, create_model

from deployledger.adapters.event_log.deferred import decode_deferring
from deployledger.adapters.event_log.mapper import EventMapper, decode
from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.values import Value
from tests.golden.examples import EXAMPLES, STREAM, VERSION, example
from tests.golden.make import FOLDER, fingerprints, golden_path
from tests.golden.shapes import check_shape, shape

EVENT_CLASSES = list(EXAMPLES)
GOLDEN = sorted(FOLDER.glob("*.v*.json"))


def concrete_classes(base: type[Event]) -> set[type[Event]]:
    found = {base} if "TOPIC" in base.__dict__ else set()
    return found.union(*(concrete_classes(below) for below in base.__subclasses__()))


def load(path: Path) -> tuple[StoredEvent, dict[str, Any]]:
    stored: dict[str, Any] = json.loads(path.read_text())
    state = json.dumps(stored["state"], ensure_ascii=False).encode()
    return StoredEvent(STREAM, VERSION, stored["topic"], state), stored


# Examples -------------------------------------------------------------------------------------------


def test_there_is_an_example_of_every_event() -> None:
    ours = {it for it in concrete_classes(Event) if it.__module__.startswith("deployledger.")}
    assert set(EVENT_CLASSES) == ours, "tests/golden/examples.py lacks, or has too many, events"


@pytest.mark.parametrize("event_class", EVENT_CLASSES)
def test_every_version_of_an_event_has_a_stored_example(event_class: type[Event]) -> None:
    for version in range(1, event_class.class_version + 1):
        path = golden_path(event_class.TOPIC, version)
        assert path.exists(), f"{path.name} is missing: run `python -m tests.golden.make` (docs/events.md)"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_a_stored_example_reads_as_it_should(path: Path) -> None:
    stored, expected = load(path)
    assert path == golden_path(stored.topic, expected["class_version"])
    assert expected["state"].get("class_version", 1) == expected["class_version"]
    event = EventMapper().to_domain_event(stored)
    assert event.model_dump(mode="json") == expected["reads_as"], f"{path.name} reads otherwise than it did"
    assert (event.originator_id, event.originator_version) == (STREAM, VERSION)
    assert EventMapper().to_domain_event(EventMapper().to_stored_event(event)) == event


@pytest.mark.parametrize("event_class", EVENT_CLASSES)
def test_an_event_is_stored_as_its_newest_example(event_class: type[Event]) -> None:
    stored, expected = load(golden_path(event_class.TOPIC, event_class.class_version))
    event = EventMapper().to_domain_event(stored)
    assert event == example(event_class)
    assert json.loads(EventMapper().to_stored_event(event).state) == expected["state"]


def test_examples_say_something_in_every_field() -> None:
    for event_class in EVENT_CLASSES:
        assert EXAMPLES[event_class].keys() >= event_class.model_fields.keys() - Event.model_fields.keys()


# Fingerprints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_class", EVENT_CLASSES)
def test_an_event_stores_what_its_version_was_released_with(event_class: type[Event]) -> None:
    topic, version = event_class.TOPIC, event_class.class_version
    check_shape(topic, version, fingerprints()[topic].get(str(version)), shape(event_class))


def test_every_version_has_a_fingerprint_and_no_other() -> None:
    assert {topic: sorted(map(int, stored)) for topic, stored in fingerprints().items()} == {
        it.TOPIC: list(range(1, it.class_version + 1)) for it in EVENT_CLASSES
    }


# The check itself -----------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class MoreColours(StrEnum):
    GREEN = "green"
    RED = "red"
    BLUE = "blue"


class OtherColours(StrEnum):
    RED = "crimson"
    GREEN = "green"


class Taste(Value):
    sweetness: int = Field(ge=0)
    kind: Literal["sweet", "sour"] = "sweet"


class MoreTaste(Taste):
    bitterness: int = 0


class LooserTaste(Value):
    sweetness: int
    kind: Literal["sweet", "sour"] = "sweet"


class Tasted(DeploymentEvent, ABC):
    """An event as it was released; without a topic, so that nothing takes it for a real one."""

    colour: Colour
    taste: Taste
    note: str | None = None


def released_with(**fields: Any) -> type[BaseModel]:
    """Return `Tasted` with some fields otherwise: the type and the default of each."""
    return create_model("Tasted", __base__=(Tasted, ABC), **fields)


def without_note() -> type[BaseModel]:
    return create_model("Tasted", __base__=(DeploymentEvent, ABC), colour=(Colour, ...), taste=(Taste, ...))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (released_with(smell=(str, ...)), "smell:type is new ('string')"),
        (released_with(smell=(str | None, None)), "smell:default is new (None)"),
        (without_note(), "note:default is gone (it was None)"),
        (released_with(note=(str, ...)), "note:type is new ('string')"),
        (released_with(note=(str | None, "none")), "note:default was None, and is 'none'"),
        (released_with(revision=(str, ...)), "revision:type was 'integer', and is 'string'"),
        (released_with(colour=(OtherColours, ...)), "colour:enum lost 'red'"),
        (released_with(colour=(str, ...)), "colour:enum is gone"),
        (released_with(taste=(MoreTaste, ...)), "taste.bitterness:type is new ('integer')"),
        (released_with(taste=(LooserTaste, ...)), "taste.sweetness:minimum is gone"),
        (released_with(taste=(Taste | None, None)), "taste:default is new"),
        (released_with(taste=(list[Taste], ...)), "taste:type was 'object', and is 'array'"),
    ],
)
def test_a_changed_event_is_found_and_told_what_to_do(changed: type[BaseModel], says: str) -> None:
    with pytest.raises(AssertionError) as failure:
        check_shape("test.tasted", 1, shape(Tasted), shape(changed))
    message = str(failure.value)
    assert says in message
    assert "test.tasted changed, and version 1 of it is stored" in message
    assert "class_version = 2 and an upcast_v1_v2" in message
    assert "`python -m tests.golden.make`" in message


def test_an_enumeration_may_gain_values_and_prose_may_change() -> None:
    class Described(Tasted, ABC):
        """Tasted, in other words."""

        colour: MoreColours  # type: ignore[assignment]  # what a new release would have
        note: str | None = Field(default=None, description="What the taster said.", title="Remark")

    check_shape("test.tasted", 1, shape(Tasted), shape(Described))


def test_a_version_without_a_fingerprint_is_found() -> None:
    with pytest.raises(AssertionError, match=r"Version 2 of test\.tasted has no fingerprint: run"):
        check_shape("test.tasted", 2, None, shape(Tasted))


@pytest.mark.parametrize("topic", ["antigravity", "tests.golden.imported:X", "os:system", "", "deployment"])
def test_a_topic_of_no_event_imports_nothing(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_a_topic.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    for name in (topic, "imported_by_a_topic", "imported_by_a_topic:X"):
        raw = EventRecord(1, uuid4().bytes, 1, name, b"{}")
        for decode_event in (decode, decode_deferring):
            with pytest.raises(UndecodableEventError, match="there is no topic"):
                decode_event(raw)
    assert not {it for it in set(sys.modules) - before if it.startswith(("antigravity", "imported", "tests"))}


# Versions that only add -----------------------------------------------------------------------------


@pytest.mark.parametrize("event_class", [it for it in EVENT_CLASSES if it.reads_version_1])
def test_an_event_without_new_fields_is_stored_as_before(event_class: type[Event]) -> None:
    expected = load(golden_path(event_class.TOPIC, 1))[1]
    event = event_class.model_validate({**example(event_class).__dict__, **expected["reads_as"]})
    assert json.loads(EventMapper().encode(event)) == expected["state"]
