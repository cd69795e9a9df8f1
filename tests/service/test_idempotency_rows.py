"""What is stored with an idempotency key agrees with the event of its command, or is not believed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.audit import keys
from deployledger.audit.idempotency_keys import KEY
from deployledger.audit.keys import Signer
from deployledger.domain.exceptions import EventLogError
from tests.domain.given import request
from tests.service.conftest import OpenService

Execute = Callable[..., None]


@pytest.fixture
def execute(database_url: str) -> Execute:
    """Change rows of keys, as somebody who can write the database does."""
    if database_url.startswith("sqlite:///"):
        path = database_url.removeprefix("sqlite:///")

        def execute(query: str, *values: Any) -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                database.execute(query, [getattr(it, "hex", it) for it in values])

    else:

        def execute(query: str, *values: Any) -> None:
            with psycopg.connect(database_url) as session:
                session.execute("SET search_path TO deployledger")
                session.execute(query.replace("?", "%s").encode(), values)

    return execute


def problems(service: MLModelDeploymentService, **options: Any) -> list[str]:
    signer = Signer.parse(keys.generate("example.com/deployments")[0])
    service.ledger.checkpoint(signer)
    audited = service.ledger.verify([signer.verifier], **options)
    assert audited.is_verified is not bool(audited.problems)
    assert {it.kind for it in audited.problems} <= {KEY}
    return [it.message for it in audited.problems]


def limits(service: MLModelDeploymentService) -> tuple[str, ...]:
    return service.ledger.verify([Signer.parse(keys.generate("example.com/nobody")[0]).verifier]).limits


async def test_the_keys_of_every_command_agree_with_their_events(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    tagless = request(deployment_name="plain", tags=None, resource_allocation=None)
    plain = await service.deploy_model(tagless, idempotency_key="1")
    again = request(deployment_name="plain", tags={}, version_strategy="update_existing")
    await service.deploy_model(again, idempotency_key="2")
    id_, version = plain.deployment_id, 2
    await service.update_deployment(id_, request(deployment_name="other"), idempotency_key="3")
    await service.update_deployment(id_, request(), idempotency_key="4", expected_version=version + 1)
    await service.cancel_deployment(id_, idempotency_key="5", expected_version=version + 2)
    await service.retry_deployment(id_, idempotency_key="6")
    await service.delete_deployment(id_, idempotency_key="7")
    strategy = request(deployment_name="new", version_strategy="update_existing")
    await service.deploy_model(strategy, idempotency_key="8")
    async with open_service() as working:
        served = await working.deploy_model(request(deployment_name="served"), idempotency_key="9")
        await working.wait_for_deployment(served.deployment_id, 20)
        await working.update_deployment(served.deployment_id, request(deployment_name="served"))
        await working.wait_for_deployment(served.deployment_id, 20)
        await working.rollback_deployment(served.deployment_id, 1, idempotency_key="10")
        await working.settled(served.deployment_id)
    remote = request(deployment_name="remote", model_uri="s3://bucket/iris.onnx")
    await service.deploy_model(remote, idempotency_key="11")
    assert problems(service) == []
    assert not any("idempotency" in it for it in limits(service))


async def two(service: MLModelDeploymentService, **more: Any) -> tuple[Any, Any]:
    """Return two deployments, each of a command with the key of its name."""
    one = await service.deploy_model(request(deployment_name="one", **more), idempotency_key="one")
    other = await service.deploy_model(request(deployment_name="other", **more), idempotency_key="other")
    return one, other


async def test_a_key_pointed_at_another_deployment_is_never_answered(
    open_service: OpenService, execute: Execute
) -> None:
    service = open_service(run_jobs=False)
    _, other = await two(service)
    execute("UPDATE idempotency_keys SET deployment_id = ? WHERE key = 'one'", other.deployment_id)
    for workers in (1, 2):
        assert problems(service, workers=workers) == [
            "The idempotency key 'one' names event 3 (deployment.requested), which a command with another "
            "fingerprint stored.",
            "The idempotency key 'other' names event 3 (deployment.requested), which the key 'one' also "
            "names.",
        ]
    with pytest.raises(EventLogError, match="which the command with that key did not store") as refusal:
        await service.deploy_model(request(deployment_name="one"), idempotency_key="one")
    assert refusal.value.hint == "`deployledger audit verify` says what is wrong with which event."
    assert (
        await service.deploy_model(request(deployment_name="other"), idempotency_key="other")
    ).deployment_id == other.deployment_id


async def test_a_repeated_request_that_had_credentials_is_compared(
    open_service: OpenService, execute: Execute
) -> None:
    service = open_service(run_jobs=False)
    remote = "s3://models/iris.onnx"  # with credentials of its own, its fingerprint would be another one
    one, other = await two(service, model_uri=remote)
    repeated = request(deployment_name="one", model_uri=remote)
    assert await service.deploy_model(repeated, idempotency_key="one") == one
    execute("DELETE FROM idempotency_keys WHERE key = 'other'")
    execute("UPDATE idempotency_keys SET deployment_id = ? WHERE key = 'one'", other.deployment_id)
    with pytest.raises(EventLogError, match="which the command with that key did not store"):
        await service.deploy_model(repeated, idempotency_key="one")
    assert problems(service) == []
    (limit,) = [it for it in limits(service) if "idempotency" in it]
    assert limit.startswith("The fingerprints of 1 idempotency keys cannot be recomputed from their events")


NOBODY = UUID("00000000-0000-4000-8000-000000000001")


@pytest.mark.parametrize(
    ("change", "value", "says", "is_answered"),
    [
        ("deployment_id", NOBODY, f"deployment {NOBODY}, and there is no such event.", False),
        ("version", 9, "names version 9 of deployment", False),
        ("version", 0, "names version 0 of deployment", False),
        ("version", 2, "(deployment.cancelled), which a command with another fingerprint stored.", False),
        ("fingerprint", "0123456789abcdef", "which a command with another fingerprint stored.", False),
        ("recorded_at", "later", "recorded at", True),
        ("recorded_at", "earlier", "recorded at", True),
    ],
)  # fmt: skip
async def test_every_column_of_a_key_is_compared(
    open_service: OpenService,
    execute: Execute,
    database_url: str,
    change: str,
    value: Any,
    says: str,
    is_answered: bool,
) -> None:
    service = open_service(run_jobs=False)
    first = await service.deploy_model(request(), idempotency_key="once")
    await service.cancel_deployment(first.deployment_id)
    if change == "recorded_at":
        hour = "3600000000" if database_url.startswith("sqlite") else "interval '1 hour'"
        sign = "+" if value == "later" else "-"
        execute(f"UPDATE idempotency_keys SET recorded_at = recorded_at {sign} {hour}")
    else:
        execute(f"UPDATE idempotency_keys SET {change} = ?", value)
    (problem,) = problems(service)
    assert problem.startswith("The idempotency key 'once' names ")
    assert says in problem
    if is_answered:
        assert await service.deploy_model(request(), idempotency_key="once") == first
    else:
        with pytest.raises(Exception, match=r"the command with that key did not store|was used for another"):
            await service.deploy_model(request(), idempotency_key="once")


async def test_keys_are_compared_when_the_whole_log_is(open_service: OpenService, execute: Execute) -> None:
    service = open_service(run_jobs=False)
    await two(service)
    signer = Signer.parse(keys.generate("example.com/deployments")[0])
    note = service.ledger.checkpoint(signer).note
    execute("UPDATE idempotency_keys SET version = 7")
    assert not service.ledger.verify([signer.verifier]).is_verified
    since = service.ledger.verify([signer.verifier], since=note)
    assert since.is_verified
    assert any("Idempotency keys and the pages" in it for it in since.limits)
