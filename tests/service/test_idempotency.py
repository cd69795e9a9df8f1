"""Commands that are repeated take effect once; commands that come too late are refused."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import (
    DeploymentRequest,
    DeploymentStatusResponse,
)
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    IdempotencyKeyReusedError,
    IllegalTransitionError,
    NameInUseError,
    ResourceNotFoundError,
    RevisionNotFoundError,
    StaleVersionError,
)
from tests.domain.given import request
from tests.service.conftest import OpenService

Command = Callable[..., Awaitable[DeploymentStatusResponse]]

SECOND = request(model_uri="models:/iris/2")


def events_in(service: MLModelDeploymentService) -> int:
    return service.event_log.position()


async def active(service: MLModelDeploymentService, name: str = "iris") -> UUID:
    """A deployment that serves its second revision."""
    deployment_id = (await service.deploy_model(request(deployment_name=name))).deployment_id
    await service.wait_for_deployment(deployment_id, 20)
    await service.update_deployment(deployment_id, request(deployment_name=name, model_uri="models:/iris/2"))
    await service.wait_for_deployment(deployment_id, 20)
    await service.settled(deployment_id)
    return deployment_id


async def begun(service: MLModelDeploymentService, name: str = "iris") -> UUID:
    """A deployment that nobody works on, because the service runs no jobs."""
    return (await service.deploy_model(request(deployment_name=name))).deployment_id


async def cancelled(service: MLModelDeploymentService, name: str = "iris") -> UUID:
    deployment_id = await begun(service, name)
    await service.cancel_deployment(deployment_id)
    return deployment_id


async def update(service: MLModelDeploymentService, deployment_id: UUID, **options: Any) -> Any:
    return await service.update_deployment(deployment_id, SECOND, **options)


async def rollback(service: MLModelDeploymentService, deployment_id: UUID, **options: Any) -> Any:
    return await service.rollback_deployment(deployment_id, 1, **options)


async def retry(service: MLModelDeploymentService, deployment_id: UUID, **options: Any) -> Any:
    return await service.retry_deployment(deployment_id, **options)


async def cancel(service: MLModelDeploymentService, deployment_id: UUID, **options: Any) -> Any:
    return await service.cancel_deployment(deployment_id, **options)


async def delete(service: MLModelDeploymentService, deployment_id: UUID, **options: Any) -> Any:
    return await service.delete_deployment(deployment_id, **options)


# Each command on a deployment, and a deployment that it is legal on.
GIVEN_AND_COMMAND = [
    pytest.param(begun, update, id="update"),
    pytest.param(active, rollback, id="rollback"),
    pytest.param(cancelled, retry, id="retry"),
    pytest.param(begun, cancel, id="cancel"),
    pytest.param(begun, delete, id="delete"),
]
EVERY_COMMAND = pytest.mark.parametrize(("given", "command"), GIVEN_AND_COMMAND)


async def given_by(given: Any, open_service: OpenService) -> tuple[MLModelDeploymentService, UUID]:
    """Return a service that runs no jobs, so that nothing happens by itself, and the deployment."""
    if given is active:
        async with open_service(actor="ann") as working:
            deployment_id = await active(working)
        return open_service(run_jobs=False, actor="ann"), deployment_id
    service = open_service(run_jobs=False, actor="ann")
    return service, await given(service)


# The same again -------------------------------------------------------------------------------------


async def test_a_repeated_deploy_gives_the_first_answer(open_service: OpenService) -> None:
    service = open_service(actor="ann")
    first = await service.deploy_model(request(), idempotency_key="order-7")
    stored = events_in(service)
    assert await service.deploy_model(request(), idempotency_key="order-7") == first
    await service.wait_for_deployment(first.deployment_id, 20)
    await service.delete_deployment(first.deployment_id)
    await service.wait_for_deployment(first.deployment_id, 20)
    again = await service.deploy_model(request(), idempotency_key="order-7")
    assert again == first
    assert (again.status, again.version) == ("creating", 1)
    assert stored == 2
    assert len(await service.list_deployments(include_deleted=True)) == 1


@EVERY_COMMAND
async def test_a_repeated_command_gives_the_first_answer(
    given: Any, command: Command, open_service: OpenService
) -> None:
    service, deployment_id = await given_by(given, open_service)
    first = await command(service, deployment_id, idempotency_key="once")
    stored = events_in(service)
    assert await command(service, deployment_id, idempotency_key="once") == first
    other = open_service(run_jobs=False, actor="ben")
    assert await command(other, deployment_id, idempotency_key="once") == first
    assert events_in(service) == stored


@EVERY_COMMAND
async def test_the_first_answer_is_given_though_the_deployment_went_on(
    given: Any, command: Command, open_service: OpenService
) -> None:
    service, deployment_id = await given_by(given, open_service)
    first = await command(service, deployment_id, idempotency_key="once")
    async with open_service() as working:
        await working.wait_for_deployment(deployment_id, 20)
        if command is not delete:
            await working.delete_deployment(deployment_id)
            await working.wait_for_deployment(deployment_id, 20)
    assert (await service.get_deployment_status(deployment_id)).state == "deleted"
    stored = events_in(service)
    assert await command(service, deployment_id, idempotency_key="once") == first
    assert events_in(service) == stored


@pytest.mark.parametrize(
    ("given", "command"), [pytest.param(begun, cancel, id="cancel"), pytest.param(begun, delete, id="delete")]
)
async def test_without_a_key_the_second_is_an_illegal_transition(
    given: Any, command: Command, open_service: OpenService
) -> None:
    service, deployment_id = await given_by(given, open_service)
    await command(service, deployment_id)
    with pytest.raises(IllegalTransitionError):
        await command(service, deployment_id)


async def test_a_repeated_update_by_name_gives_the_first_answer(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    deployment_id = await begun(service)
    wanted = request(version_strategy="update_existing", model_uri="models:/iris/2")
    first = await service.deploy_model(wanted, idempotency_key="u")
    assert (first.deployment_id, first.revision) == (deployment_id, 2)
    assert await service.deploy_model(wanted, idempotency_key="u") == first
    assert (await service.get_deployment_status(deployment_id)).revision == 2


async def test_a_renaming_update_can_be_repeated(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    deployment_id = await begun(service)
    wanted = request(deployment_name="rose")
    first = await service.update_deployment(deployment_id, wanted, idempotency_key="u")
    await service.deploy_model(request(deployment_name="iris"))
    assert await service.update_deployment(deployment_id, wanted, idempotency_key="u") == first


# At the same time -----------------------------------------------------------------------------------


async def test_of_twenty_deploys_at_the_same_time_one_takes_effect(open_service: OpenService) -> None:
    services = [open_service(run_jobs=False) for _ in range(4)]
    for number in range(5):
        wanted = request(deployment_name=f"iris-{number}")
        answers = await asyncio.gather(
            *(services[at % 4].deploy_model(wanted, idempotency_key=f"key-{number}") for at in range(20))
        )
        assert all(answer == answers[0] for answer in answers)
    assert events_in(services[0]) == 10


@EVERY_COMMAND
async def test_of_twenty_commands_at_the_same_time_one_takes_effect(
    given: Any, command: Command, open_service: OpenService
) -> None:
    service, deployment_id = await given_by(given, open_service)
    services = [service, *(open_service(run_jobs=False) for _ in range(3))]
    for other in services:
        await other.list_deployments()
    stored = events_in(service)
    answers = await asyncio.gather(
        *(command(services[at % 4], deployment_id, idempotency_key="once") for at in range(20))
    )
    assert all(answer == answers[0] for answer in answers)
    assert events_in(service) == stored + 1


@EVERY_COMMAND
async def test_concurrent_repeats_with_a_version_get_the_first_answer(
    given: Any, command: Command, open_service: OpenService
) -> None:
    service, deployment_id = await given_by(given, open_service)
    version = (await service.get_deployment_status(deployment_id)).version
    answers = await asyncio.gather(
        *(command(service, deployment_id, idempotency_key="k", expected_version=version) for _ in range(20))
    )
    assert {answer.version for answer in answers} == {version + 1}
    assert (await service.get_deployment_status(deployment_id)).version == version + 1


IN_A_PROCESS = """
import asyncio, json, sys
from uuid import UUID
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest

async def main(url, wanted, cancelled):
    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        await service.list_deployments()
        print("ready", flush=True)
        sys.stdin.readline()
        request = DeploymentRequest.model_validate_json(wanted)
        answers = [
            await service.deploy_model(request, idempotency_key="deploy"),
            await service.cancel_deployment(UUID(cancelled), idempotency_key="cancel"),
        ]
        print(json.dumps([answer.model_dump(mode="json") for answer in answers]))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_that_repeat_a_command_get_one_answer(
    open_service: OpenService, database_url: str
) -> None:
    service = open_service(run_jobs=False)
    to_cancel = await begun(service, "to-cancel")
    stored = events_in(service)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_A_PROCESS, database_url, request().model_dump_json(), str(to_cancel)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (json.loads(stdout) for stdout, _ in outputs)
    assert first == second
    assert events_in(service) == stored + 3


# Another command with the key -----------------------------------------------------------------------


async def test_a_key_with_another_body_is_refused(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    await service.deploy_model(request(), idempotency_key="order-7")
    stored = events_in(service)
    for other in (request(tags={"team": "fauna"}), request(deployment_name="rose"), SECOND):
        with pytest.raises(IdempotencyKeyReusedError) as refusal:
            await service.deploy_model(other, idempotency_key="order-7")
        error = refusal.value
        assert (error.status_code, error.key) == (409, "order-7")
        assert error.first != error.second
        assert error.first in error.message
        assert error.second in error.message
        assert error.hint
    assert events_in(service) == stored


async def test_each_command_is_another_one(open_service: OpenService) -> None:
    service, deployment_id = await given_by(active, open_service)
    other_id = await begun(service, "other")
    version = (await service.get_deployment_status(deployment_id)).version
    await service.rollback_deployment(deployment_id, 1, idempotency_key="k")
    others: list[Awaitable[Any]] = [
        service.deploy_model(SECOND, idempotency_key="k"),
        update(service, deployment_id, idempotency_key="k"),
        service.rollback_deployment(deployment_id, 2, idempotency_key="k"),
        service.rollback_deployment(other_id, 1, idempotency_key="k"),
        service.rollback_deployment(deployment_id, 1, idempotency_key="k", expected_version=version),
        retry(service, deployment_id, idempotency_key="k"),
        cancel(service, deployment_id, idempotency_key="k"),
        delete(service, deployment_id, idempotency_key="k"),
    ]
    fingerprints = set()
    for other in others:
        with pytest.raises(IdempotencyKeyReusedError) as refusal:
            await other
        fingerprints |= {refusal.value.first, refusal.value.second}
    assert len(fingerprints) == len(others) + 1


async def test_tags_in_another_order_are_the_same_body(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    one = request(tags={"team": "flora", "stage": {"b": 1, "a": [None, 2.5]}})
    same = request(tags={"stage": {"a": [None, 2.5], "b": 1}, "team": "flora"})
    first = await service.deploy_model(one, idempotency_key="k")
    assert await service.deploy_model(same, idempotency_key="k") == first


async def test_odd_tags_have_a_fingerprint(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    odd = request(tags={"": {1: "a", "b": 2**80, "Zoë": (1, 2)}})
    first = await service.deploy_model(odd, idempotency_key="k")
    again = await service.deploy_model(odd, idempotency_key="k")
    assert again.model_dump(mode="json") == first.model_dump(mode="json")


# Keys ------------------------------------------------------------------------------------------------

BAD_KEYS = {"empty": "", "too long": "k" * 256, "newline": "a\nb", "NUL": "a\0", "surrogate": "\ud800"}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
async def test_a_bad_key_is_refused(key: str, open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    deployment_id = await begun(service)
    stored = events_in(service)
    commands: list[Awaitable[Any]] = [
        service.deploy_model(request(deployment_name="rose"), idempotency_key=key),
        *(command(service, deployment_id, idempotency_key=key) for command in (update, rollback, retry)),
        *(command(service, deployment_id, idempotency_key=key) for command in (cancel, delete)),
    ]
    for command in commands:
        with pytest.raises(ConfigurationError, match="must be 1 to 255 printable characters") as refusal:
            await command
        assert refusal.value.status_code == 400
    assert events_in(service) == stored


@pytest.mark.parametrize("key", ["k", "k" * 255, "clé-ключ-鍵 'quoted\" {} % \\"])
async def test_any_printable_key_does(key: str, open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    first = await service.deploy_model(request(), idempotency_key=key)
    assert await service.deploy_model(request(), idempotency_key=key) == first


async def test_keys_are_told_apart_to_the_letter(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    for number, key in enumerate(("key", "Key", "key ", "k\u00e9", "ke\u0301")):
        await service.deploy_model(request(deployment_name=f"iris-{number}"), idempotency_key=key)
    assert len(await service.list_deployments()) == 5


# Refused ones ----------------------------------------------------------------------------------------


async def test_a_refused_command_may_be_given_again_with_its_key(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    deployment_id = await begun(service)
    for _ in range(2):
        with pytest.raises(NameInUseError):
            await service.deploy_model(request(), idempotency_key="deploy")
        with pytest.raises(IllegalTransitionError):
            await retry(service, deployment_id, idempotency_key="retry")
        with pytest.raises(RevisionNotFoundError):
            await service.rollback_deployment(deployment_id, 5, idempotency_key="rollback")
        with pytest.raises(ResourceNotFoundError):
            await cancel(service, UUID(int=1), idempotency_key="cancel")
        with pytest.raises(StaleVersionError):
            await delete(service, deployment_id, idempotency_key="delete", expected_version=9)
    await service.cancel_deployment(deployment_id)
    assert (await retry(service, deployment_id, idempotency_key="retry")).status == "creating"
    await service.update_deployment(deployment_id, request(deployment_name="rose"))
    assert (await service.deploy_model(request(), idempotency_key="deploy")).version == 1


# Expected versions ------------------------------------------------------------------------------------


@EVERY_COMMAND
async def test_a_stale_version_is_refused(given: Any, command: Command, open_service: OpenService) -> None:
    service, deployment_id = await given_by(given, open_service)
    version = (await service.get_deployment_status(deployment_id)).version
    stored = events_in(service)
    for stale in (version - 1, version + 1, 0, -1):
        with pytest.raises(StaleVersionError) as refusal:
            await command(service, deployment_id, expected_version=stale)
        error = refusal.value
        assert isinstance(error, ConflictError)
        assert (error.status_code, error.expected, error.found) == (409, stale, version)
        assert f"is at version {version}, not {stale}" in error.message
        assert error.actor in error.message
        assert error.hint
    assert events_in(service) == stored


@EVERY_COMMAND
async def test_the_right_version_is_fine(given: Any, command: Command, open_service: OpenService) -> None:
    service, deployment_id = await given_by(given, open_service)
    version = (await service.get_deployment_status(deployment_id)).version
    assert (await command(service, deployment_id, expected_version=version)).version == version + 1


async def test_a_stale_version_names_who_came_first(open_service: OpenService) -> None:
    ann, ben = open_service(run_jobs=False, actor="ann"), open_service(run_jobs=False, actor="ben")
    deployment_id = await begun(ann)
    seen = (await ann.get_deployment_status(deployment_id)).version
    await update(ben, deployment_id, expected_version=seen)
    with pytest.raises(StaleVersionError, match="the last event was caused by ben") as refusal:
        await delete(ann, deployment_id, expected_version=seen)
    assert refusal.value.actor == "ben"
    assert "Deployment 'iris'" in refusal.value.message


async def test_of_updates_at_the_same_time_that_expect_a_version_one_wins(open_service: OpenService) -> None:
    services = [open_service(run_jobs=False, actor=f"caller-{number}") for number in range(2)]
    deployment_id = await begun(services[0])
    for round_ in range(10):
        version = (await services[0].get_deployment_status(deployment_id)).version
        results = await asyncio.gather(
            *(
                service.update_deployment(deployment_id, wanted(round_, number), expected_version=version)
                for number, service in enumerate(services)
            ),
            return_exceptions=True,
        )
        won = [it for it in results if isinstance(it, DeploymentStatusResponse)]
        lost = [it for it in results if isinstance(it, StaleVersionError)]
        assert (len(won), len(lost)) == (1, 1), results
        assert lost[0].actor == f"caller-{results.index(won[0])}"
        assert (await services[0].get_deployment_status(deployment_id)).version == version + 1


def wanted(round_: int, number: int) -> DeploymentRequest:
    return request(model_uri=f"models:/iris/{round_}-{number}")
