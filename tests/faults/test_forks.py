"""A process that is forked off while its parent writes is refused at once; the parent goes on unharmed."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.exceptions import MachineLearningServiceError
from tests.domain.given import request, requested

LONGEST_SECONDS = 25  # what waits for the database does so for 30


def append(log: DatabaseEventLog) -> None:
    log.append([requested(name="a")(uuid4(), 1)])


def in_a_fork(work: Callable[[], object]) -> str:
    """Return what work says, or the error that it raises, in a process that is forked off here."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(work())
        except MachineLearningServiceError as error:
            answer = str(error)
        except BaseException as error:
            answer = repr(error)
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    answers: list[bytes] = []
    with os.fdopen(reading, "rb") as pipe:
        thread = threading.Thread(target=lambda: answers.append(pipe.read()), daemon=True)
        thread.start()
        thread.join(LONGEST_SECONDS)
        if not answers:
            os.kill(child, 9)
            thread.join()
    os.waitpid(child, 0)
    return str(json.loads(answers[0])) if answers and answers[0] else "it hangs"


@pytest.fixture
def busy_log(database_url: str) -> Iterator[DatabaseEventLog]:
    """A log that is written, read and followed by threads."""
    log = open_event_log(database_url, create=True)
    append(log)
    models = open_read_models(log)
    stopping = threading.Event()

    def keep_on(work: Callable[[], object]) -> None:
        while not stopping.is_set():
            work()

    threads = [threading.Thread(target=keep_on, args=(lambda: append(log),)) for _ in range(2)]
    threads.append(threading.Thread(target=models.follow, args=(stopping,)))
    threads.append(threading.Thread(target=keep_on, args=(lambda: models.get("deployment_list", "none"),)))
    for thread in threads:
        thread.start()
    yield log
    stopping.set()
    for thread in threads:
        thread.join()
    # Nothing was lost or damaged.
    assert [it.message for it in log.findings() if it.is_problem] == []
    assert not any(it.differences for it in models.verify(list(models.projections)))
    models.store.close()
    log.close()


def test_what_was_opened_before_a_fork_is_refused_at_once(busy_log: DatabaseEventLog) -> None:
    models = open_read_models(busy_log)
    assert models.get("deployment_list", "none") is None
    with busy_log.follow() as follower:
        waiting = threading.Thread(target=lambda: list(zip(range(20), follower, strict=False)))
        waiting.start()
        for use in (
            lambda: append(busy_log),
            busy_log.position,
            lambda: busy_log.ownership(uuid4()).__enter__(),
            lambda: busy_log.watch().__enter__(),
            lambda: follower.next_batch(0),
            lambda: models.get("deployment_list", "none"),
            lambda: models.rebuild("deployment_list"),
            models.status,
        ):
            assert "opened before this process was forked" in in_a_fork(use)
        assert in_a_fork(busy_log.close) == "None"
        assert in_a_fork(follower.close) == "None"
        waiting.join()
    models.store.close()


def test_a_fork_that_opens_the_log_itself_does_not_wait(busy_log: DatabaseEventLog) -> None:
    def open_and_append() -> object:
        log = open_event_log(busy_log.url)
        append(log)
        return open_read_models(log).get("deployment_list", "none")

    for _ in range(3):
        answer = in_a_fork(open_and_append)
        if busy_log.url.startswith("sqlite:"):
            assert "was open when this process was forked" in answer
            assert "'spawn' or 'forkserver'" in answer
        else:
            assert answer == "None"


def test_a_fork_opens_a_log_that_its_parent_has_closed(database_url: str) -> None:
    log = open_event_log(database_url, create=True)
    append(log)
    log.close()

    def open_and_append() -> int:
        log = open_event_log(database_url)
        append(log)
        return log.position()

    assert in_a_fork(open_and_append) == "2"


async def test_a_service_that_was_opened_before_a_fork_is_refused_at_once(database_url: str) -> None:
    service = MLModelDeploymentService(database_url=database_url)
    accepted = await service.deploy_model(request())

    def use() -> str:
        async def use_all() -> list[str]:
            errors = []
            for call in (
                service.deploy_model(request()),
                service.list_deployments(),
                service.get_deployment_status(accepted.deployment_id),
                service.wait_for_deployment(accepted.deployment_id, timeout=5),
                service.delete_deployment(accepted.deployment_id),
            ):
                try:
                    await call
                except MachineLearningServiceError as error:
                    errors.append(error.message)
            await service.settled(accepted.deployment_id)
            await service.close()
            return errors

        answers: list[list[str]] = []
        thread = threading.Thread(target=lambda: answers.append(asyncio.run(use_all())))
        thread.start()
        thread.join()
        return str(answers[0])

    began = time.monotonic()
    answer = await asyncio.to_thread(in_a_fork, use)
    assert answer.count("The service was opened before this process was forked.") == 5
    assert time.monotonic() - began < LONGEST_SECONDS
    status = await service.wait_for_deployment(accepted.deployment_id, timeout=LONGEST_SECONDS)
    assert status.status == "active"
    await service.close()
