"""Many at once: callers, services, threads and processes."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_service_exceptions import ConflictError, NameInUseError
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.postgres.schema import EVENTS
from deployledger.domain.event_log import events_of
from deployledger.domain.names import NameReserved, reservation_id
from tests.contracts.reading import page
from tests.domain.given import request
from tests.service.conftest import OpenService

ROUNDS = 50


async def won(service: MLModelDeploymentService, name: str) -> bool:
    try:
        await service.deploy_model(request(deployment_name=name))
    except NameInUseError:
        return False
    return True


def assert_each_name_was_taken_once(database_url: str) -> None:
    log = open_event_log(database_url)
    for number in range(ROUNDS):
        assert [type(it) for it in events_of(log, reservation_id(f"iris-{number}"))] == [NameReserved]
    assert len([it for it in page(log) if it.event.TOPIC == "deployment.requested"]) == ROUNDS
    log.close()


async def test_of_deploys_of_one_service_at_the_same_time_one_wins(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    for number in range(5):
        results = await asyncio.gather(*(won(service, f"iris-{number}") for _ in range(8)))
        assert Counter(results) == {True: 1, False: 7}
    assert len(await service.list_deployments()) == 5


def test_of_services_on_two_event_loops_one_wins_each_name(database_url: str) -> None:
    start = threading.Barrier(2)

    def deploy_all() -> list[bool]:
        async def in_a_loop_of_its_own() -> list[bool]:
            async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
                await service.list_deployments()
                results = []
                for number in range(ROUNDS):
                    await asyncio.to_thread(start.wait, 60)
                    results.append(await won(service, f"iris-{number}"))
                return results

        return asyncio.run(in_a_loop_of_its_own())

    asyncio.run(_create_schema(database_url))
    with ThreadPoolExecutor(2) as threads:
        one, other = (it.result() for it in [threads.submit(deploy_all) for _ in range(2)])
    assert [a + b for a, b in zip(one, other, strict=True)] == [1] * ROUNDS
    assert_each_name_was_taken_once(database_url)


DEPLOY_EACH_NAME = """
import asyncio, sys
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig
from core_ai_layer.machine_learning_service.ml_service_exceptions import NameInUseError

async def main():
    async with MLModelDeploymentService(database_url=sys.argv[1], run_jobs=False) as service:
        await service.list_deployments()
        print("ready", flush=True)
        for name in sys.stdin:
            request = DeploymentRequest(
                model_uri="models:/iris/1",
                deployment_name=name.strip(),
                deployment_target_config=DeploymentTargetConfig(type="api_service"),
            )
            try:
                await service.deploy_model(request)
                print("won", flush=True)
            except NameInUseError:
                print("lost", flush=True)

asyncio.run(main())
"""


def test_of_two_processes_one_wins_each_name(database_url: str) -> None:
    asyncio.run(_create_schema(database_url))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DEPLOY_EACH_NAME, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        pipes = [(it.stdin, it.stdout) for it in processes]
        for _, answers in pipes:
            assert answers is not None
            assert answers.readline() == "ready\n"
        for number in range(ROUNDS):
            for names, _ in pipes:
                assert names is not None
                names.write(f"iris-{number}\n")
                names.flush()
            results = sorted(answers.readline().strip() for _, answers in pipes if answers is not None)
            assert results == ["lost", "won"]
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert_each_name_was_taken_once(database_url)


async def test_of_updates_at_the_same_time_each_is_a_revision_of_its_own(open_service: OpenService) -> None:
    services = [open_service(run_jobs=False) for _ in range(2)]
    answer = await services[0].deploy_model(request())
    updates = [
        services[number % 2].update_deployment(
            answer.deployment_id, request(model_uri=f"models:/iris/{number}")
        )
        for number in range(10)
    ]
    answers = await asyncio.gather(*updates)
    assert sorted(it.revision for it in answers) == list(range(2, 12))
    assert all(it.version == it.revision for it in answers)


async def test_of_renames_to_one_name_one_wins(open_service: OpenService) -> None:
    services = [open_service(run_jobs=False) for _ in range(2)]
    ids = [
        (await services[0].deploy_model(request(deployment_name=f"iris-{n}"))).deployment_id for n in range(4)
    ]
    results = await asyncio.gather(
        *(services[n % 2].update_deployment(ids[n], request(deployment_name="rose")) for n in range(4)),
        return_exceptions=True,
    )
    refused = [it for it in results if isinstance(it, Exception)]
    assert len(refused) == 3
    assert all(isinstance(it, ConflictError) for it in refused)
    names = sorted(it.deployment_name for it in await services[1].list_deployments())
    assert names.count("rose") == 1
    assert len(set(names)) == 4


async def test_the_event_loop_is_never_blocked(open_service: OpenService, database_url: str) -> None:
    # given a database in which nothing can be stored for as long as the event loop needs for some turns
    service = open_service()
    await service.deploy_model(request(deployment_name="iris"))
    with locked_for_writing(database_url):
        deploying = [
            asyncio.create_task(service.deploy_model(request(deployment_name=f"iris-{number}")))
            for number in range(256)
        ]
        listing = asyncio.create_task(service.list_deployments())
        for _ in range(200):  # a command that waited on the loop would wait for the lock in here
            await asyncio.sleep(0.001)
        assert not any(it.done() for it in deploying)
        await listing
    answers = await asyncio.gather(*deploying)
    assert len({it.deployment_id for it in answers}) == 256


@contextmanager
def locked_for_writing(database_url: str) -> Iterator[None]:
    """Hold the lock that appending to the log needs."""
    if database_url.startswith("postgresql:"):
        with psycopg.connect(database_url) as holder:
            holder.execute(EVENTS.lock)
            yield
        return
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize("count", [24])
async def test_many_deployments_at_once_all_end_active(count: int, open_service: OpenService) -> None:
    service = open_service()
    answers = await asyncio.gather(
        *(service.deploy_model(request(deployment_name=f"iris-{number}")) for number in range(count))
    )
    ended = await asyncio.gather(
        *(service.wait_for_deployment(it.deployment_id, timeout=60) for it in answers)
    )
    assert {it.status for it in ended} == {"active"}
    assert {it.version for it in ended} == {4}


async def _create_schema(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
        await asyncio.to_thread(service.event_log.create_schema)
