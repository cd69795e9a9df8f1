"""An event that cannot be applied is parked, with those that follow in its row, and nothing else waits."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import ReadModelError, ResourceNotFoundError, UndecodableEventError
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from deployledger.service.listing import Filters, Listing, answer, list_page
from tests.domain.given import SERVING, failed, fetched, history, packaged, requested, update_requested
from tests.projections.examples import (
    BY_REVISION,
    COUNTS,
    EXAMPLES,
    Count,
    append_some_undecodable,
    append_undecodable,
    assert_folded,
    by_hand,
    catch_all_up,
    label,
    opened,
)

OURS = ["deployment_status", "deployment_list", "deployment_timeline"]


def parked_at(models: ReadModels, name: str | None = None) -> list[tuple[str, int]]:
    return [(of, it.position) for of, it in models.parked(name)]


class UnreadableUntilFixed:
    """Makes the decoder fail for one event."""

    def __init__(self, models: ReadModels, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
        decode = models.log.decode
        self.is_fixed = False

        def decode_or_not(raw: EventRecord) -> Any:
            if raw.position == position and not self.is_fixed:
                raise UndecodableEventError("Nobody knows it.")
            return decode(raw)

        monkeypatch.setattr(models.log, "decode", decode_or_not)


# Undecodable events ---------------------------------------------------------------------------------


def test_only_the_deployment_of_an_undecodable_event_waits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = uuid4(), uuid4()
    with opened(database_url, *EXAMPLES) as models:
        decoding = UnreadableUntilFixed(models, 3, monkeypatch)
        past = history(*SERVING, stream=one)
        models.log.append(history(requested(name="other"), stream=other))
        models.log.append(past[:1])
        catch_all_up(models)
        models.log.append(past[1:])
        models.log.append(history(*SERVING, stream=other)[1:])
        models.log.append(history(*SERVING, update_requested(name="new"), stream=one)[4:])
        for consistency in ("current", "eventual"):
            row = models.get("deployment_status", str(one), consistency)
            assert (row.version, row.state) == (1, "requested")
            assert models.get("deployment_status", str(other), consistency).version == 4
        catch_all_up(models)
        assert_folded(models)
        for name in OURS:
            assert parked_at(models, name) == [(name, it) for it in (3, 4, 5, 9)]
        (_, first), (_, second) = models.parked(OURS[0], str(one))[:2]
        assert "Nobody knows it." in first.error
        assert second.error == ""
        assert (first.stream_id, first.stream_version, first.topic) == (str(one), 2, fetched()(one, 2).TOPIC)
        parked = {it.name: it.parked for it in models.status()}
        assert parked == {**dict.fromkeys(OURS, 4), "counts": 4, "fragile": 4, "by_revision": 0}
        found = models.find(models.projection("deployment_status"), str(one)).row
        assert found is not None
        told = answer(models, found)
        assert told.parked_events == 4
        assert "4 later events could not be applied, from position 3 on" in told.message
        assert "Nobody knows it." in told.message
        page = list_page(models, Listing(), "current")
        assert [(it.deployment_id, it.parked_events) for it in page] == [(other, 0), (one, 4)]

        decoding.is_fixed = True
        for name in models.projections:
            assert models.retry(name) == 0
        assert_folded(models)
        assert not models.parked()
        assert models.get("deployment_status", str(one)).name == "new"
        assert [it.parked_events for it in list_page(models, Listing(), "current")] == [0, 0]
        for verified in models.verify(list(models.projections)):
            assert not verified.differences


def test_a_retry_in_vain_changes_nothing(database_url: str) -> None:
    one = uuid4()
    with opened(database_url, *EXAMPLES) as models:
        models.log.append(history(requested(), stream=one))
        append_undecodable(models.log, one, 2)
        models.log.append(history(*SERVING, stream=one)[2:])
        catch_all_up(models)
        before = parked_at(models)
        assert models.retry("deployment_status") == 3
        assert models.retry("deployment_status", str(one)) == 3
        assert models.retry("by_revision") == 0
        assert parked_at(models) == before
        assert_folded(models)
        with pytest.raises(ResourceNotFoundError):
            models.retry("deployment_status", str(uuid4()))


def test_a_deployment_whose_first_event_is_parked_has_nothing_to_show(database_url: str) -> None:
    one, other = uuid4(), uuid4()
    with opened(database_url, *EXAMPLES) as models:
        append_undecodable(models.log, one, 1)
        models.log.append(history(*SERVING, stream=one)[1:])
        models.log.append(history(*SERVING, stream=other))
        with pytest.raises(ReadModelError, match="event 1 of the log is parked"):
            models.get("deployment_status", str(one))
        page = list_page(models, Listing(filters=Filters(include_deleted=True)), "current")
        assert [it.deployment_id for it in page] == [other]
        assert page.total == 1
        catch_all_up(models)
        assert_folded(models)
        models.rebuild(list(models.projections))
        assert_folded(models)


# Projections that raise -----------------------------------------------------------------------------


class Sick:
    """A fold and a key that fail until they are mended."""

    is_mended = False

    def apply(self, row: Count | None, event: DeploymentEvent) -> Count:
        if not self.is_mended:
            raise ZeroDivisionError("for ever")
        if row is not None and row.count + 1 != event.originator_version:
            raise ValueError("out of order")
        return Count(count=event.originator_version)

    def key(self, event: DeploymentEvent) -> str:
        if not self.is_mended:
            raise KeyError("which")
        return str(event.originator_id)


def test_a_projection_that_always_raises_disturbs_no_other(database_url: str) -> None:
    sick = Sick()
    by_stream = Projection(name="sick", version=1, row_type=Count, apply=sick.apply)
    by_key = Projection(name="sick_keys", version=1, row_type=Count, apply=sick.apply, key=sick.key)
    streams = [uuid4() for _ in range(5)]
    with opened(database_url, by_stream, by_key, COUNTS) as models:
        for stream in streams:
            models.log.append(history(*SERVING, stream=stream))
        catch_all_up(models)
        for stream in streams:
            assert models.get("deployment_status", str(stream)).version == 4
            assert models.get("counts", str(stream)).count == 4
        parked = {it.name: (it.parked, it.rows, it.lag_events) for it in models.status()}
        assert parked["sick"] == (20, 5, 0)
        assert parked["sick_keys"] == (20, 5, 0)
        assert parked["deployment_status"] == parked["counts"] == (0, 5, 0)
        sick.is_mended = True
        assert models.retry("sick", str(streams[0])) == 0
        assert models.retry("sick") == 0
        assert models.retry("sick_keys") == 0
        for stream in streams:
            assert models.get("sick", str(stream)).count == models.get("sick_keys", str(stream)).count == 4
        assert not any(it.parked for it in models.status())


@pytest.mark.parametrize("key", ["", "x" * 501, "a\0b", 5, None])
def test_a_key_that_is_none_is_parked_by_the_stream(key: Any, database_url: str) -> None:
    odd = Projection(
        name="odd",
        version=1,
        row_type=Count,
        apply=lambda row, event: Count(count=1),
        key=lambda event: key if event.revision == 2 else "one",
    )
    one, other = uuid4(), uuid4()
    with opened(database_url, odd) as models:
        models.log.append(history(requested(), update_requested(), fetched(2), stream=one))
        models.log.append(history(requested(), stream=other))
        catch_all_up(models)
        live = [(it.key, it.position) for _, it in models.parked("odd")]
        assert live == [(f"stream:{one}", 2), (f"stream:{one}", 3)]
        models.rebuild(["odd"])
        assert [(it.key, it.position) for _, it in models.parked("odd")] == live
        assert models.get("odd", "one").count == 1


# Rows that cannot be stored -------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2, 100])
def test_a_row_that_is_too_large_is_parked_at_the_event_that_made_it_so(
    batches: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployledger.projections.applying.APPLIED_AT_ONCE", batches)
    monkeypatch.setattr("deployledger.projections.rebuilding._ROWS_AT_HAND", batches // 2)
    one, other = uuid4(), uuid4()
    large = {"note": "x" * 530_000}  # which no request may have, and a log may
    with opened(database_url, *EXAMPLES, largest_row=20_000) as models:
        models.log.append(history(*SERVING, update_requested(tags=large), fetched(2), stream=one))
        models.log.append(history(requested(tags=large), failed(), stream=other))
        catch_all_up(models)
        assert_folded(models, 20_000)
        status = [(it.key, it.position) for _, it in models.parked("deployment_status")]
        assert status == [(str(one), 5), (str(one), 6), (str(other), 7), (str(other), 8)]
        assert "is the most" in models.parked("deployment_status")[0][1].error
        assert [(it.key, it.position) for _, it in models.parked("fragile")] == status[2:]
        models.rebuild(list(models.projections))
        assert_folded(models, 20_000)
        models.rebuild(OURS, workers=2)
        assert_folded(models, 20_000)
        assert models.get("deployment_status", str(one)).version == 4
    with opened(database_url, *EXAMPLES, largest_row=600_000) as models:
        assert models.retry("deployment_status") == 0
        assert models.get("deployment_status", str(one)).version == 6


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize(
    "first",
    [{"tags": {"note": "x" * 530_000}}, {"name": "a\0b"}, {"model_uri": "a\0b"}],
    ids=lambda it: next(iter(it)),
)
def test_a_row_that_cannot_be_stored_is_parked_on_every_path(
    batches: int, first: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployledger.projections.applying.APPLIED_AT_ONCE", batches)
    with opened(database_url, *EXAMPLES, largest_row=20_000) as models:
        models.log.append(history(requested(**first), update_requested(), stream=uuid4()))
        catch_all_up(models)
        assert_folded(models, 20_000)
        models.rebuild(list(models.projections))
        assert_folded(models, 20_000)


class Tricky(BaseModel):
    text: str
    number: int


@pytest.mark.parametrize(
    "row",
    [
        Tricky(text="a\0b", number=1),
        Tricky(text="a", number=1 << 63),
        Tricky.model_construct(text=5, number=1),
        Tricky.model_construct(text="a", number="one"),
        Tricky.model_construct(text="\ud800", number=1),
        Tricky.model_construct(text="a"),
        "no row at all",
    ],
    ids=["nul", "large", "not text", "not a number", "surrogate", "missing", "text"],
)
def test_a_row_that_no_database_stores_is_parked(row: Any, database_url: str) -> None:
    tricky = Projection(
        name="tricky",
        version=1,
        row_type=Tricky,
        apply=lambda before, event: row if event.originator_version == 2 else Tricky(text="ok", number=0),
        columns=("text", "number"),
    )
    one, other = uuid4(), uuid4()
    with opened(database_url, tricky) as models:
        models.log.append(history(requested(), fetched(), stream=one))
        models.log.append(history(requested(), stream=other))
        assert models.get("tricky", str(other)) == Tricky(text="ok", number=0)
        assert models.get("tricky", str(one)) == Tricky(text="ok", number=0)
        assert [it.position for _, it in models.parked("tricky")] == [2]
        models.rebuild(["tricky"])
        models.log.append(history(requested(), fetched(), packaged(), stream=one)[2:])
        assert models.get("tricky", str(one)) == Tricky(text="ok", number=0)
        assert [it.position for _, it in models.parked("tricky")] == [2, 4]


def test_a_row_that_somebody_made_unreadable_stops_nobody_else(database_url: str) -> None:
    one, other = UUID(int=1 << 80), UUID(int=2 << 80)
    with opened(database_url, *EXAMPLES) as models:
        models.log.append(history(requested(), stream=one))
        models.log.append(history(requested(), stream=other))
        catch_all_up(models)
        table = label(models, "deployment_status")
        by_hand(database_url, f"UPDATE @{table} SET state = '{{nonsense' WHERE key = '{one}'")
        with pytest.raises(ReadModelError, match="cannot be read"):
            models.get("deployment_status", str(one))
        models.log.append(history(*SERVING, stream=one)[1:])
        models.log.append(history(*SERVING, stream=other)[1:])
        assert models.get("deployment_status", str(other)).version == 4
        assert models.get("deployment_status", str(one)).version == 4
        assert not models.parked("deployment_status")
        catch_all_up(models)
        assert_folded(models)


def test_of_rows_with_keys_of_their_own_only_one_waits(database_url: str) -> None:
    with opened(database_url, BY_REVISION) as models:
        streams = [uuid4(), uuid4()]
        models.log.append(history(requested(), update_requested(), failed(2), stream=streams[0]))
        spoilt = history(requested(), update_requested(2), stream=streams[1])
        append_some_undecodable(models.log, spoilt, {spoilt[0].event_id})
        catch_all_up(models)
        assert_folded(models)
        assert models.get("by_revision", "revision 1").number == 1
        assert models.get("by_revision", "revision 2") is None
