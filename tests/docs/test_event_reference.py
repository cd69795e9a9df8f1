"""The page of every event has each of them, with every field."""

from typing import ClassVar

import pytest

from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.lifecycle import Trigger
from docs.event_reference import _meaning, markdown
from tests.golden.examples import EXAMPLES


def test_every_event_and_every_field_is_on_the_page() -> None:
    page = markdown()
    for event_class in EXAMPLES:
        _, _, section = page.partition(f"## `{event_class.TOPIC}`\n")
        section = section.partition("\n## ")[0]
        for field in event_class.model_fields.keys() - Event.model_fields.keys():
            assert f"| `{field}` | " in section, f"{event_class.TOPIC} lacks {field}"


def test_every_version_has_the_release_that_introduced_it() -> None:
    for event_class in EXAMPLES:
        assert len(event_class.SINCE) == event_class.class_version, event_class.TOPIC


def test_a_field_without_a_meaning_is_an_error() -> None:
    class Noted(DeploymentEvent):
        """Somebody had something to say."""

        TOPIC: ClassVar[str] = "test.noted_in_a_test_of_the_page"
        trigger: ClassVar[Trigger] = Trigger.FAIL

        text: str

    assert _meaning(Noted, "revision").startswith("the revision concerned")
    with pytest.raises(LookupError, match="docstring of Noted does not describe text"):
        _meaning(Noted, "text")


def test_a_change_of_state_says_when_it_is_possible() -> None:
    assert "artifacts_fetched, packaged → active (an earlier revision serves)" in markdown()
    assert "requested, artifacts_fetched, packaged, active, completed, failed, cancelled" in markdown()
