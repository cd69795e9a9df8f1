"""What folds are given decodes to the same events, though some fields are read later."""

import json
from typing import Any

import pytest

from deployledger.adapters.event_log.damage import damaged
from deployledger.adapters.event_log.deferred import decode_deferring
from deployledger.adapters.event_log.mapper import EventMapper, decode
from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import Event
from deployledger.domain.exceptions import UndecodableEventError
from tests.golden.examples import EXAMPLES, example

all_events = pytest.mark.parametrize("event", [example(it) for it in EXAMPLES], ids=lambda it: it.TOPIC)


def raw(event: Event) -> EventRecord:
    state = EventMapper().encode(event)
    return EventRecord(7, event.originator_id.bytes, event.originator_version, event.TOPIC, state)


def _compact(state: dict[str, Any]) -> bytes:
    return json.dumps(state, separators=(",", ":")).encode()


@all_events
def test_it_is_the_same_event(event: Event) -> None:
    assert decode(raw(event)) == event
    assert isinstance(decode_deferring(raw(event)), type(event))
    assert decode_deferring(raw(event)) == event
    assert event == decode_deferring(raw(event))
    assert hash(decode_deferring(raw(event))) == hash(decode_deferring(raw(event)))
    assert repr(decode_deferring(raw(event))).replace("TzInfo(0)", "datetime.timezone.utc") == repr(event)


@all_events
def test_every_field_can_be_asked_for_first(event: Event) -> None:
    for name in type(event).model_fields:
        assert getattr(decode_deferring(raw(event)), name) == getattr(event, name)
    assert decode_deferring(raw(event)).model_dump() == event.model_dump()
    assert decode_deferring(raw(event)).model_dump_json() == event.model_dump_json()
    assert decode_deferring(raw(event)).model_copy(update={"actor": "bob"}).actor == "bob"
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        decode_deferring(raw(event)).nothing_of_the_kind  # noqa: B018


@all_events
def test_what_was_not_stored_has_its_default(event: Event) -> None:
    stored = json.loads(raw(event).state)
    for name in stored.keys() - {"class_version"}:
        if not type(event).model_fields[name].is_required():
            less = {key: value for key, value in stored.items() if key != name}
            without = raw(event)._replace(state=_compact(less))
            assert getattr(decode_deferring(without), name) == getattr(decode(without), name)


@all_events
def test_what_the_database_says_of_stream_and_version_wins(event: Event) -> None:
    stored = json.loads(raw(event).state) | {"originator_version": 99, "originator_id": str(event.event_id)}
    odd = raw(event)._replace(state=_compact(stored))
    for decoded in (decode(odd), decode_deferring(odd)):
        assert (decoded.originator_id, decoded.originator_version) == (
            event.originator_id,
            event.originator_version,
        )


@pytest.mark.parametrize("state", [b"", b"{", b"{}", b"[]", b"null", b'{"timestamp": "yesterday"}', b"\xff"])
@all_events
def test_what_cannot_be_read_is_an_error(event: Event, state: bytes) -> None:
    for of in (decode, decode_deferring):
        with pytest.raises(UndecodableEventError, match="does not decode"):
            of(raw(event)._replace(state=state))


def test_a_topic_that_is_not_known_is_an_error() -> None:
    for of in (decode, decode_deferring):
        with pytest.raises(UndecodableEventError, match=r"deployment\.dreamt"):
            of(raw(example(next(iter(EXAMPLES))))._replace(topic="deployment.dreamt"))


@all_events
def test_what_is_read_later_may_turn_out_to_be_unreadable(event: Event) -> None:
    stored = json.loads(raw(event).state) | {"event_id": 5}
    odd = decode_deferring(raw(event)._replace(state=_compact(stored)))
    assert odd.timestamp == event.timestamp
    with pytest.raises(UndecodableEventError):
        odd.event_id  # noqa: B018
    nowhere = damaged((7, "zz", *raw(event)[2:5]))
    with pytest.raises(UndecodableEventError, match=r"stream zz .* does not decode: 'zz' is not an id"):
        decode_deferring(nowhere)
