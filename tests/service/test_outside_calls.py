"""Calls to the outside end: by a result, a deadline or a command, or because they are abandoned."""

import ast
import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_service_exceptions import ExternalServiceError
from deployledger import service as service_package
from deployledger.domain import ports, stored
from deployledger.domain.requests import DeploymentRequest
from deployledger.domain.responses import DeploymentStatusResponse
from deployledger.service import outside_calls
from deployledger.service.outside_calls import METHODS, Call, CallLimits, OutsideCalls
from deployledger.testing import (
    Fault,
    Faults,
    FaultyContainerRegistry,
    FaultyModelRegistry,
    FaultyOrchestrator,
    ManualClock,
    in_memory_service,
)
from tests.domain.given import BATCH_JOB, request
from tests.service.outside import eventually

DAY = 86400.0
MOMENT = 0.5
"""Four of them are the time in which a cancelled call has to end; no deadline is that short."""

WAIT = 60


class Outside:
    """A service whose clients misbehave as a test says, and whose clock the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = FaultyModelRegistry()
        self.images = FaultyContainerRegistry()
        self.cluster = FaultyOrchestrator()
        self.service: MLModelDeploymentService

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[MLModelDeploymentService]:
        async with in_memory_service(
            model_registry=self.registry,
            container_registry=self.images,
            orchestrator=self.cluster,
            sleep=self.clock.sleep,
            **options,
        ) as self.service:
            try:
                yield self.service
            finally:
                self.release()

    def release(self) -> None:
        for faults in (self.registry.faults, self.images.faults, self.cluster.faults):
            faults.release()

    def faults_of(self, method: str) -> Faults:
        clients = (self.registry, self.images, self.cluster)
        return next(client.faults for client in clients if hasattr(client, method))

    async def passes(self, condition: Callable[[], Any], *, seconds: float = DAY) -> None:
        """Let time pass until something is true."""

        async def is_true() -> bool:
            self.clock.advance(seconds)
            result = condition()
            return bool(await result if inspect.isawaitable(result) else result)

        await eventually(is_true)

    async def ends(self, deployment_id: UUID, *, seconds: float = DAY) -> DeploymentStatusResponse:
        """Let time pass until no job is in progress, and return the status."""
        await self.passes(lambda: self._has_ended(deployment_id), seconds=seconds)
        return await self.service.get_deployment_status(deployment_id)

    async def _has_ended(self, deployment_id: UUID) -> bool:
        return (await self.service.get_deployment_status(deployment_id)).progress is None

    async def settled(self, deployment_id: UUID) -> None:
        settled = asyncio.ensure_future(self.service.settled(deployment_id))
        await self.passes(settled.done)
        await settled

    async def active(self, **fields: Any) -> UUID:
        accepted = await self.service.deploy_model(request(**fields))
        status = await self.service.wait_for_deployment(accepted.deployment_id, timeout=WAIT)
        assert status.status in ("active", "inactive"), status.message
        await self.service.settled(accepted.deployment_id)
        return accepted.deployment_id

    async def stuck(self, method: str, fault: Fault) -> UUID:
        """Return a deployment whose job is in a method that does not return."""
        if method in ("prune", "observe"):  # while an update is being reconciled with what runs
            deployment_id = await self.active()
        self.faults_of(method).of[method] = fault
        calls = self.faults_of(method).calls[method]
        if method in ("prune", "observe"):
            await self.service.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
        else:
            deployment_id = (await self.service.deploy_model(asked(method))).deployment_id
        await eventually(lambda: self.faults_of(method).calls[method] > calls)
        return deployment_id


def asked(method: str, **fields: Any) -> DeploymentRequest:
    """Return a request of which the job calls a method."""
    if method == "wait_for_completion":
        fields["deployment_target_config"] = BATCH_JOB
    return request(**fields)


@pytest.fixture
def outside() -> Outside:
    return Outside()


STEPS = {
    "download_artifacts": "fetch",
    "build_and_push": "package",
    "provision": "provision",
    "wait_for_completion": "run",
}
ENDLESS = [Fault.HANGS, Fault.IGNORES_CANCELLATION, Fault.BLOCKS, Fault.ANSWERS_LATE]


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        (fault, method)
        for fault in Fault
        for method in STEPS
        if fault is not Fault.RAISES_LONG_TEXT or method == "provision"
    ],
)
async def test_a_step_whose_client_misbehaves_ends_as_it_should(
    fault: Fault, method: str, outside: Outside
) -> None:
    async with outside.open() as service:
        outside.faults_of(method).of[method] = fault
        deployment_id = (await service.deploy_model(asked(method))).deployment_id
        await eventually(lambda: outside.faults_of(method).calls[method] > 0)
        if fault in ENDLESS:
            status = await outside.ends(deployment_id)
        else:
            status = await service.wait_for_deployment(deployment_id, timeout=WAIT)
        if fault is Fault.WORKS_TWICE:
            assert status.state == ("completed" if method == "wait_for_completion" else "active")
            return
        assert status.status == "failed"
        assert status.failure is not None
        assert status.failure.step == STEPS[method]
        assert len(status.failure.message) <= 8192
        assert (status.failure.reason == "deadline_exceeded") == (fault in ENDLESS)
        outside.release()
        await outside.settled(deployment_id)
        await outside.passes(lambda: outside.cluster.runs == {}, seconds=MOMENT)
        await service.retry_deployment(deployment_id)
        status = await service.wait_for_deployment(deployment_id, timeout=WAIT)
        assert status.state == ("completed" if method == "wait_for_completion" else "active")


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in ENDLESS])
async def test_what_runs_is_reconciled_though_cleaning_up_fails(fault: Fault, outside: Outside) -> None:
    async with outside.open() as service:
        deployment_id = await outside.active()
        for method in ("observe", "prune"):
            outside.cluster.faults.of[method] = fault
            await service.update_deployment(deployment_id, request(model_uri=f"models:/iris/{method}"))
            await eventually(lambda: outside.cluster.faults.calls[method] > 1)  # noqa: B023  # it is awaited
            status = await service.wait_for_deployment(deployment_id, timeout=WAIT)
            assert (status.status, status.serving_revision) == ("active", status.revision)
            outside.release()
            runs = {deployment_id: {status.revision}}
            await outside.passes(lambda: outside.cluster.runs == runs, seconds=MOMENT)  # noqa: B023


@pytest.mark.parametrize("exit_", ["cancel", "delete", "update"])
@pytest.mark.parametrize("fault", [Fault.HANGS, Fault.BLOCKS, Fault.ANSWERS_LATE])
@pytest.mark.parametrize("method", [*STEPS, "prune", "observe"])
async def test_every_exit_works_while_a_client_hangs(
    method: str, fault: Fault, exit_: str, outside: Outside
) -> None:
    if exit_ == "cancel" and method in ("prune", "observe", "wait_for_completion"):
        return  # nothing is in progress that could be cancelled
    async with outside.open() as service:
        deployment_id = await outside.stuck(method, fault)
        hanging = outside.faults_of(method)
        if fault in (Fault.HANGS, Fault.ANSWERS_LATE) and method != "prune":
            hanging.of.clear()  # further calls work; prune goes on hanging below
        match exit_:
            case "cancel":
                await service.cancel_deployment(deployment_id)
                expected = "cancelled"
            case "delete":
                await service.delete_deployment(deployment_id)
                expected = "deleted"
            case _:
                await service.update_deployment(deployment_id, asked(method, model_uri="models:/iris/3"))
                expected = "completed" if method == "wait_for_completion" else "active"
        if method == "prune" and exit_ == "delete":
            # The deletion itself hangs: it fails at its deadline, and can be asked for again.
            assert (await outside.ends(deployment_id)).state == "delete_failed"
            outside.release()
            await service.delete_deployment(deployment_id)
        elif fault is Fault.BLOCKS:
            hanging.of.clear()
        status = await outside.ends(deployment_id, seconds=MOMENT)
        assert status.state == expected, status.message
        outside.release()
        await outside.settled(deployment_id)
        runs = {deployment_id: {status.revision}} if expected == "active" else {}
        await outside.passes(lambda: outside.cluster.runs == runs, seconds=MOMENT)


async def test_a_late_result_of_a_deleted_deployment_is_cleaned_up(
    outside: Outside, database_url: str
) -> None:
    async with outside.open(database_url=database_url, create_schema=True) as service:
        # given a server that comes up long after its deployment was deleted
        deployment_id = await outside.stuck("provision", Fault.ANSWERS_LATE)
        outside.cluster.faults.of.clear()
        await service.delete_deployment(deployment_id)
        assert (await outside.ends(deployment_id, seconds=MOMENT)).state == "deleted"
        prunes = outside.cluster.faults.calls["prune"]
        outside.release()
        # then it is stopped, and the history does not say that it served
        await eventually(lambda: outside.cluster.faults.calls["prune"] > prunes)
        await eventually(lambda: outside.cluster.runs == {})
        history = await service.get_deployment_history(deployment_id)
        assert "Provisioned" not in [entry.event for entry in history]


@pytest.mark.parametrize("method", ["build_and_push", "provision", "prune", "observe"])
async def test_a_rollback_works_while_a_client_hangs(method: str, outside: Outside) -> None:
    async with outside.open() as service:
        deployment_id = await outside.active()
        faults = outside.faults_of(method)
        faults.of[method], calls = Fault.ANSWERS_LATE, faults.calls[method]
        await service.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
        await eventually(lambda: faults.calls[method] > calls)
        await service.rollback_deployment(deployment_id, 1)
        faults.of.clear()
        status = await outside.ends(deployment_id, seconds=MOMENT)
        assert (status.status, status.revision, status.serving_revision) == ("active", 3, 3)
        outside.release()
        await outside.passes(lambda: outside.cluster.runs == {deployment_id: {3}}, seconds=MOMENT)


async def test_a_retry_works_while_the_first_attempt_still_hangs(outside: Outside) -> None:
    async with outside.open() as service:
        deployment_id = await outside.stuck("provision", Fault.ANSWERS_LATE)
        assert (await outside.ends(deployment_id)).status == "failed"
        outside.cluster.faults.of.clear()
        await service.retry_deployment(deployment_id)
        assert (await outside.ends(deployment_id, seconds=MOMENT)).status == "active"
        observations = outside.cluster.faults.calls["observe"]
        outside.release()
        await eventually(lambda: outside.cluster.faults.calls["observe"] > observations)
        history = [entry.event for entry in await service.get_deployment_history(deployment_id)]
        assert history.count("Provisioned") == 1
        assert outside.cluster.runs == {deployment_id: {1}}


async def test_closing_abandons_what_does_not_end(outside: Outside) -> None:
    async with outside.open() as service:
        await outside.stuck("provision", Fault.IGNORES_CANCELLATION)
        closing = asyncio.ensure_future(service.close())
        await outside.passes(closing.done)
        await closing


async def test_queries_end_though_the_orchestrator_does_not_answer(outside: Outside) -> None:
    async with outside.open() as service:
        deployment_id = await outside.active()
        for method in ("observe", "logs", "provisioned"):
            outside.cluster.faults.of[method] = Fault.BLOCKS
        observing = asyncio.ensure_future(service.observe_deployment(deployment_id))
        await outside.passes(observing.done)
        with pytest.raises(ExternalServiceError, match="took longer than 0:00:30"):
            await observing
        leftovers = asyncio.ensure_future(service.leftovers())
        await outside.passes(leftovers.done)
        assert await leftovers == []
        lines = service.deployment_logs(deployment_id)
        reading = asyncio.ensure_future(anext(lines))
        await outside.passes(reading.done)
        with pytest.raises(ExternalServiceError, match="took longer than"):
            await reading


async def test_a_clock_that_jumps_ends_no_step(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    async with outside.open() as service:
        deployment_id = await outside.stuck("provision", Fault.HANGS)
        monkeypatch.setattr(time, "time", lambda: 4e9)
        status = await service.get_deployment_status(deployment_id)
        assert status.status == "creating"
        assert (await outside.ends(deployment_id)).status == "failed"


# Slots ----------------------------------------------------------------------------------------------


async def test_hanging_downloads_starve_neither_others_nor_deletes(outside: Outside) -> None:
    async with outside.open() as service:
        healthy = await outside.active(deployment_name="healthy")
        outside.registry.faults.of["download_artifacts"] = Fault.IGNORES_CANCELLATION
        hanging = [
            (await service.deploy_model(request(deployment_name=f"hanging-{number}"))).deployment_id
            for number in range(131)
        ]
        await eventually(lambda: outside.registry.faults.calls["download_artifacts"] == 129)
        # what waits says so
        await eventually(lambda: is_in_line(service, hanging[130]))
        waiting = await service.get_deployment_status(hanging[130])
        assert waiting.message.endswith("Waiting for a slot: 3rd.")
        assert waiting.progress is not None
        assert waiting.progress.queue_position == 3
        # what waits can be cancelled at once, and the next in line moves up
        await service.cancel_deployment(hanging[129])
        await service.settled(hanging[129])
        assert "2nd" in (await service.get_deployment_status(hanging[130])).message
        # other sources, other steps and deletes go on
        outside.registry.faults.of.clear()
        await outside.active(deployment_name="other", model_uri="s3://bucket/iris")
        await service.delete_deployment(healthy)
        assert (await service.wait_for_deployment(healthy, timeout=WAIT)).state == "deleted"


async def is_in_line(service: MLModelDeploymentService, deployment_id: UUID) -> bool:
    progress = (await service.get_deployment_status(deployment_id)).progress
    return progress is not None and progress.queue_position is not None


async def test_threads_that_hang_keep_no_other_call_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_calls, "_THREAD_AFTER_SECONDS", 0.01)
    calls, released = OutsideCalls(CallLimits()), threading.Event()
    hanging = [
        asyncio.ensure_future(calls.call(Call.FETCH, None, asyncio.to_thread, released.wait))
        for _ in range(130)
    ]
    assert await calls.call(Call.FETCH, None, asyncio.to_thread, str, 1) == "1"
    assert not any(call.done() for call in hanging)
    released.set()
    await asyncio.gather(*hanging)
    calls.close()


# No call is forgotten -------------------------------------------------------------------------------


def port_methods() -> Iterator[str]:
    """Yield every method of a port that does I/O."""
    for module in (ports, stored):
        for _, port in inspect.getmembers(module, inspect.isclass):
            if port.__module__ == module.__name__ and getattr(port, "_is_protocol", False):
                for name, method in vars(port).items():
                    if inspect.iscoroutinefunction(method) or (
                        inspect.isfunction(method)
                        and "AsyncIterator" in str(inspect.signature(method).return_annotation)
                    ):
                        yield name


def test_every_method_of_a_port_has_a_kind() -> None:
    assert set(METHODS) == set(port_methods())
    assert all(CallLimits().deadline(call).total_seconds() > 0 for call in Call)


def test_the_service_calls_clients_through_outside_calls_only() -> None:
    kinds: dict[str, set[str]] = {}
    direct = []
    for path in Path(next(iter(service_package.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="call" | "lines"),
                    args=[ast.Attribute(value=ast.Name(id="Call"), attr=kind), *arguments],
                ):
                    (method,) = {_name(argument) for argument in arguments} & METHODS.keys()
                    kinds.setdefault(method, set()).add(kind)
                case ast.Call(func=called) if _name(called) in METHODS:
                    text = ast.unparse(called)
                    is_of_others = text.startswith("current.") or path.parent.name == "files"
                    if not is_of_others and (_name(called) != "add" or "artifacts" in text):
                        direct.append(f"{path.name}:{node.lineno}: {text}")
    assert direct == []
    assert kinds == {method: {call.name} for method, call in METHODS.items()}


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
