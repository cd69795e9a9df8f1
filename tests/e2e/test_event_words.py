"""Every event in words."""

from collections.abc import Iterator

import pytest

from deployledger.adapters.cli.event_words import sentence
from deployledger.domain.events import Event
from tests.golden.examples import EXAMPLES


def topics(parent: type[Event] = Event) -> Iterator[str]:
    for kind in parent.__subclasses__():
        if kind.__module__.startswith("deployledger."):
            yield from [kind.TOPIC] if "TOPIC" in kind.__dict__ else []
            yield from topics(kind)


WORDS = {
    "deployment.requested": "Requested by ann: models:/iris@champion, batch inference job, port 8080, "
    "500m CPU, 1.5Gi memory, 1 GPU, 2 tags",
    "deployment.artifacts_fetched": "Fetched in 0.03 s: models:/iris/7, 3 files, 2.7 kB, sha256:aaaaaaaa "
    "(simulated)",
    "deployment.packaged": "Packaged in 0.03 s: image sha256:bbbbbbbb, 5.0 GB (simulated)",
    "deployment.provisioned": "Active in 0.03 s: http://127.0.0.1:8080 (simulated)",
    "deployment.completed": "Completed in 0.03 s: 150 rows written to /data/out.csv (simulated)",
    "deployment.failed": "Failed in provision after 0.03 s (attempt 2): server_exited: The server of 'iris' "
    "ended with exit code 1. Read its log.",
    "deployment.update_requested": "Rollback to revision 1 requested by ann (revision 3): "
    "models:/iris@champion, batch inference job, port 8080, 500m CPU, 1.5Gi memory, 1 GPU, 2 tags",
    "deployment.retry_requested": "Retry requested by ann (attempt 2)",
    "deployment.cancelled": "Update to revision 2 cancelled by ann",
    "deployment.deletion_requested": "Deletion requested by ann",
    "deployment.deletion_failed": "Deletion failed after 0.03 s (attempt 2): server_exited: The server of "
    "'iris' ended with exit code 1. Read its log.",
    "deployment.deleted": "Deleted in 0.03 s (simulated)",
    "deployment_name.reserved": "Name iris.v1_Prod-1 reserved by ann",
    "deployment_name.released": "Name iris.v1_Prod-1 released by ann",
    "event_log.clock_corrected": "Clock corrected by ann: times up to 2027-04-07T09:30:00Z from position "
    "1,234 are wrong",
}


@pytest.mark.parametrize("topic", sorted({*topics(), *WORDS}))
def test_an_event_has_a_sentence(topic: str) -> None:
    kind, fields = next(it for it in EXAMPLES.items() if topic == it[0].TOPIC)
    data = kind.model_construct(**fields).model_dump(mode="json", include=set(fields))
    assert sentence(topic, data, actor="ann", seconds=0.03, attempt=2) == WORDS[topic]


@pytest.mark.parametrize("topic", [*WORDS, "acme.model_audited"])
def test_an_event_that_is_stored_in_another_way_has_its_topic(topic: str) -> None:
    for data in (
        {},
        {"artifact": 1, "image": None, "failure": "x", "target": [], "name": None, "attempt": 1},
    ):
        words = sentence(topic, data)
        assert words == topic or not words.endswith(":")


def test_a_sentence_names_nothing_that_is_not_known() -> None:
    target = {"type": "api_service", "replicas": 1, "port": None}
    data = {"model_uri": "/models/iris-v1.onnx", "target": target, "resources": None, "tags": {}}
    assert sentence("deployment.requested", data) == "Requested: iris-v1.onnx, 1 replica"
    update = sentence("deployment.update_requested", {**data, "revision": 2})
    assert update == "Update to revision 2 requested: iris-v1.onnx, 1 replica"
    assert sentence("deployment.provisioned", {"endpoint_url": None}) == "Batch job started"


def test_foreign_text_in_a_sentence_stays_on_its_line() -> None:
    failure = {"step": "fetch", "reason": "odd", "message": "a\n\x1b[2Jb", "hint": ""}
    assert sentence("deployment.failed", {"failure": failure}) == r"Failed in fetch: odd: a\n\u001b[2Jb"
    assert sentence("acme.\x1b[2J", {}) == r"acme.\u001b[2J"
