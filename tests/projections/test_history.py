"""The history of a deployment, entry by entry."""

import json

from deployledger.projections.history import describe
from tests.domain.given import ARTIFACT, DEPLOYMENT_ID, SERVING, failed, history, update_requested


def test_an_entry_says_what_when_who_and_why() -> None:
    past = history(*SERVING)
    entry = describe(past[1])
    assert (entry.version, entry.event, entry.topic) == (
        2,
        "ArtifactsFetched",
        "deployment.artifacts_fetched",
    )
    assert (entry.timestamp, entry.actor, entry.revision) == (past[1].timestamp, "ann", 1)
    assert (entry.event_id, entry.correlation_id) == (past[1].event_id, past[1].correlation_id)
    assert entry.causation_id is None
    assert entry.data == {"artifact": ARTIFACT.model_dump(), "simulated": False}


def test_the_data_of_an_entry_is_what_else_the_event_says() -> None:
    entries = [describe(event) for event in history(*SERVING, update_requested(), failed(2))]
    assert [entry.event for entry in entries] == [
        "Requested",
        "ArtifactsFetched",
        "Packaged",
        "Provisioned",
        "UpdateRequested",
        "Failed",
    ]
    assert entries[0].data["orchestrator"] == "local"
    assert entries[0].data["target"]["replicas"] == 2
    assert entries[4].data["model_uri"] == "models:/iris/2"
    assert entries[5].data["failure"]["reason"] == "server_exited"
    for entry in entries:
        assert str(DEPLOYMENT_ID) not in json.dumps(entry.data)
        assert not {"timestamp", "actor", "revision"} & set(entry.data)


def test_entries_survive_json() -> None:
    for event in history(*SERVING):
        entry = describe(event)
        assert type(entry).model_validate_json(entry.model_dump_json()) == entry
