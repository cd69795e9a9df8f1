"""Serving on this machine: real gateways, real servers, and what happens when they are killed."""

import asyncio
import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from deployledger.adapters.local import LocalProcessOrchestrator, gateway_process, runtimes
from deployledger.adapters.local.resources import cores, threads
from deployledger.adapters.local.runtimes import runtime_of
from deployledger.adapters.oci import OciLayoutRegistry, extract_model
from deployledger.domain.exceptions import (
    ConfigurationError,
    DeploymentError,
    ExternalServiceError,
)
from deployledger.domain.ports import OrchestratorClientInterface, ProvisionRequest
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Image
from deployledger.gateway.limits import Limits
from deployledger.gateway.ports import Listeners, bind_error
from deployledger.service.files.listing import FileEntry, list_files
from deployledger.service.files.locks import is_held, lock_despite_probes, locked_async
from deployledger.testing import OrchestratorContract
from tests.adapters.files import artifact_of
from tests.ports import free_port

JOB = {"type": "batch_inference_job", "input_uri": "/in.csv", "output_uri": "/out.csv"}
ASK = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0]}]}


def adds(path: Path, constant: float) -> Path:
    """A model that adds a constant; return the folder it is in."""
    tensor = (TensorProto.FLOAT, ["rows", 1])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "constant"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", *tensor)],
        [helper.make_tensor_value_info("y", *tensor)],
        [helper.make_tensor("constant", TensorProto.FLOAT, [1], [constant])],
    )
    path.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path / "model.onnx")
    return path


def multiplies(path: Path, factor: int) -> None:
    """An MLflow model that gives each row's sum, multiplied by a factor."""
    (path / "code").mkdir(parents=True)
    (path / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: row_sums, code: code, python_version: '3'}}"
    )
    (path / "code" / "row_sums.py").write_text(
        "class Model:\n"
        "    def predict(self, frame, params=None):\n"
        f"        return frame.sum(axis=1) * {factor}\n"
        "def _load_pyfunc(path):\n"
        "    return Model()\n"
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models that add 1, 2 and 3."""
    root = tmp_path_factory.mktemp("models")
    return {number: adds(root / str(number), number) for number in (1, 2, 3)}


def extract(reference: str, destination: Path) -> list[FileEntry]:
    shutil.copytree(reference, destination)
    return list_files(destination)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ignore(done: int, total: int | None, unit: str) -> None:
    pass


def order(deployment: uuid.UUID, revision: int, model: Path, **target: Any) -> ProvisionRequest:
    return ProvisionRequest(
        deployment_id=deployment,
        deployment_name="Adder_1",
        revision=revision,
        artifact=artifact_of(model),
        image=Image(reference=str(model), digest=f"sha256:{'0' * 64}", size_bytes=1),
        target=DeploymentTargetConfig(**{"type": "api_service", **target}),
        resources=ResourceConfig(cpu_request="500m"),
    )


def local(root: Path, **more: Any) -> LocalProcessOrchestrator:
    return LocalProcessOrchestrator(root, extract_model=extract, **more)


def answer(client: httpx.Client, url: str) -> tuple[str, float]:
    """Return the version that answered, and what it computed."""
    response = client.post(f"{url}/v2/models/Adder_1/infer", json=ASK, timeout=60)
    response.raise_for_status()
    body = response.json()
    return body["model_version"], body["outputs"][0]["data"][0]


def ask(url: str) -> tuple[str, float]:
    with httpx.Client() as client:
        return answer(client, url)


def gateway_state(root: Path, deployment: uuid.UUID) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((root / str(deployment) / "gateway.json").read_text())
    return state


def processes_of(root: Path) -> dict[int, str]:
    """Return the processes that have the root, or a folder below it, in their command line."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(root) in command:
            found[int(process.name)] = command
    return found


def replicas_of(root: Path) -> list[int]:
    return [pid for pid, command in processes_of(root).items() if "onnx_server" in command]


async def eventually(look: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := await asyncio.to_thread(look):
            return seen
        await asyncio.sleep(0.02)
    return pytest.fail(f"waited {seconds} seconds in vain")


@contextmanager
def clients(url: str, *, kept: int, fresh: int, slow: int) -> Iterator[Counter[str]]:
    """Ask all the time, on connections that are kept, on fresh ones, and on kept ones with long pauses."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def run(keep: bool, pause: float) -> None:
        client = httpx.Client()
        with client:
            while not stop.wait(pause):
                try:
                    version, value = answer(client, url)
                    seen[f"version {version}: {value:g}"] += 1
                except httpx.HTTPError as error:
                    seen[f"failed: {error!r}"] += 1
                if not keep:
                    client._transport.close()  # the connections, and not the slow TLS set-up with them

    kinds = [(True, 0.0)] * kept + [(False, 0.0)] * fresh + [(True, 1.3)] * slow
    workers = [threading.Thread(target=run, args=kind) for kind in kinds]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def orchestrator(root: Path) -> AsyncIterator[LocalProcessOrchestrator]:
    orchestrator = local(root)
    yield orchestrator
    for deployment in await orchestrator.provisioned():
        await orchestrator.prune(deployment, None)
    await eventually(lambda: not processes_of(root))


class TestLocalProcessOrchestrator(OrchestratorContract):
    @pytest.fixture
    def client(self, tmp_path: Path) -> LocalProcessOrchestrator:
        return LocalProcessOrchestrator(tmp_path / "serving", extract_model=extract_model)

    @pytest.fixture
    def container_registry(self, tmp_path: Path) -> OciLayoutRegistry:
        return OciLayoutRegistry(tmp_path / "images")

    @pytest.fixture
    def model(self, models: dict[int, Path]) -> Path:
        return models[1]

    @pytest.fixture
    def batch_target(self, tmp_path: Path) -> DeploymentTargetConfig:
        (tmp_path / "in.csv").write_text("x\n1\n2\n")
        files = {"input_uri": str(tmp_path / "in.csv"), "output_uri": str(tmp_path / "out.csv")}
        return DeploymentTargetConfig(type="batch_inference_job", **files)


class TestWithoutProcesses:
    def test_it_implements_the_port(self, root: Path) -> None:
        orchestrator: OrchestratorClientInterface = local(root)
        assert orchestrator.name.startswith("local-process:")
        assert orchestrator.target_types == {"api_service", "batch_inference_job"}

    @pytest.mark.parametrize(
        ("quantity", "expected"),
        [("500m", 0.5), ("2", 2), ("1.5", 1.5), ("1e1", 10), ("1k", 1000), ("1Ki", 1024), (".5", 0.5)],
    )
    def test_cpu_quantities_are_cores(self, quantity: str, expected: float) -> None:
        assert cores(quantity) == pytest.approx(expected)

    def test_threads_are_at_least_one_and_no_more_than_there_are_cores(self) -> None:
        assert threads(ResourceConfig(cpu_request="100m"), 1) == 1
        assert threads(ResourceConfig(cpu_request="1k"), 1) == os.cpu_count()
        assert threads(None, 1000) == 1

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ({"model.pkl": ""}, FailureReason.UNSUPPORTED_FORMAT),
            ({"a.onnx": "", "b.onnx": ""}, FailureReason.MODEL_INVALID),
        ],
    )
    def test_models_without_a_runtime(
        self, files: dict[str, str], reason: FailureReason, tmp_path: Path
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(DeploymentError) as refused:
            runtime_of(tmp_path, "Adder_1")
        assert refused.value.reason is reason
        assert refused.value.hint

    def test_the_right_runtime_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.onnx").touch()
        (tmp_path / "other.onnx").touch()
        runtime, path = runtime_of(tmp_path, "Adder_1")
        assert (runtime.format, path.name) == ("ONNX", "other.onnx")
        (tmp_path / "model.onnx").touch()
        assert runtime_of(tmp_path, "Adder_1")[1].name == "model.onnx"

    def test_a_missing_runtime_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model.onnx").touch()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(DeploymentError, match="not installed: msgspec, onnxruntime") as refused:
            runtime_of(tmp_path, "Adder_1")
        assert refused.value.reason is FailureReason.RUNTIME_MISSING
        assert "pip install 'deployledger[onnx]'" in refused.value.hint

    def test_why_a_port_cannot_be_had(self) -> None:
        assert bind_error(OSError(errno.EADDRINUSE, "x"), "h", 80).reason == "port_in_use"
        assert "may not listen on port 80" in bind_error(OSError(errno.EACCES, "x"), "h", 80).message

    async def test_a_port_is_opened_once_however_many_ask(self) -> None:
        listeners = Listeners("127.0.0.1", asyncio.Protocol)
        port = listeners.claim(0, fixed=False)
        assert listeners.claim(port, fixed=True) == port
        await asyncio.gather(*(listeners.open(port) for _ in range(3)))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        listeners.keep(set())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    async def test_locks_between_processes(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        assert not is_held(path)
        held = lock_despite_probes(path)
        assert held is not None
        assert is_held(path)
        assert lock_despite_probes(path) is None
        os.close(held)
        async with locked_async(path, create_folder=False):
            assert is_held(path)
        with pytest.raises(FileNotFoundError):
            async with locked_async(tmp_path / "missing" / "lock", create_folder=False):
                pass

    async def test_what_was_never_provisioned(self, orchestrator: LocalProcessOrchestrator) -> None:
        unknown = uuid.uuid4()
        await orchestrator.prune(unknown, None)
        await orchestrator.prune(unknown, 3)
        assert not (await orchestrator.observe(unknown)).running
        assert [line async for line in orchestrator.logs(unknown, follow=False)] == []
        assert await orchestrator.provisioned() == {}

    async def test_edge_devices_are_not_for_this_machine(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        with pytest.raises(ConfigurationError, match="edge_device"):
            await orchestrator.provision(order(uuid.uuid4(), 1, models[1], type="edge_device"), ignore)

    @pytest.mark.parametrize(
        ("target", "resources", "refused"),
        [
            ({"serving_image": "registry.example.org/serving:1"}, {"gpu_request": "1"}, None),
            (JOB | {"input_uri": "ftp://host/rows.csv"}, {}, "input_uri has the scheme 'ftp'"),
            (JOB | {"output_uri": "gs://bucket/rows.csv"}, {}, "output_uri has the scheme 'gs'"),
            (JOB | {"output_uri": "/in.csv"}, {}, "as its input and as its output"),
            (JOB, {}, None),
        ],
    )
    def test_files_elsewhere_are_refused_before_anything_is_stored(
        self, target: dict[str, Any], resources: dict[str, str], refused: str | None, root: Path
    ) -> None:
        config = DeploymentTargetConfig(**{"type": "api_service", **target})
        with pytest.raises(ConfigurationError, match=refused) if refused else nullcontext():
            local(root).check_target("iris", config, ResourceConfig(**resources))


class TestServing:
    async def test_provision_observe_logs_and_prune(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        reported: list[tuple[int, int | None, str]] = []
        # when two replicas are provisioned
        target = await orchestrator.provision(
            order(deployment, 1, models[1], replicas=2), lambda *progress: reported.append(progress)
        )
        # then they serve, in turn
        assert target.endpoint_url is not None
        assert ask(target.endpoint_url) == ("1", 1.0)
        assert len(replicas_of(root)) == 2
        assert reported[-1] == (2, 2, "replicas")
        # and every process sees that
        elsewhere = local(root)
        assert await elsewhere.provisioned() == {deployment: {1}}
        observation = await elsewhere.observe(deployment)
        assert (observation.running, observation.revision) == (True, 1)
        assert observation.detail == "2 of 2 replicas ready, 0 restarts"
        lines = [line async for line in elsewhere.logs(deployment, follow=False)]
        assert any(line.startswith("[replica 0] ") for line in lines)
        assert any(line.startswith("[replica 1] ") for line in lines)
        # and provisioning it again changes nothing
        pids = set(processes_of(root))
        assert await elsewhere.provision(order(deployment, 1, models[1], replicas=2), ignore) == target
        assert set(processes_of(root)) == pids
        # and when it is pruned, nothing is left
        await elsewhere.prune(deployment, None)
        assert entries(root) == []
        assert not processes_of(root)
        with pytest.raises(httpx.ConnectError):
            ask(target.endpoint_url)

    async def test_an_update_leaves_no_request_unanswered(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        first = await orchestrator.provision(order(deployment, 1, models[1]), ignore)
        assert first.endpoint_url is not None
        with clients(first.endpoint_url, kept=2, fresh=2, slow=2) as seen:
            for revision in (2, 3):
                second = await orchestrator.provision(order(deployment, revision, models[revision]), ignore)
                assert second == first
                await orchestrator.prune(deployment, revision)
                await eventually(lambda: f"version {revision}: {revision}" in seen)  # noqa: B023
                await asyncio.sleep(0.3)
        assert {key for key in seen if key.startswith("failed")} == set(), seen
        assert set(seen) == {"version 1: 1", "version 2: 2", "version 3: 3"}
        assert await orchestrator.provisioned() == {deployment: {3}}

    async def test_an_mlflow_model_is_updated_likewise(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        deployment = uuid.uuid4()
        for number in (1, 2):
            multiplies(tmp_path / str(number), number)
        url = (await orchestrator.provision(order(deployment, 1, tmp_path / "1"), ignore)).endpoint_url
        assert url is not None
        seen: Counter[str] = Counter()
        stop = threading.Event()

        def ask_mlflow() -> None:
            with httpx.Client(base_url=url) as client:
                while not stop.is_set():
                    try:
                        response = client.post("/invocations", json={"dataframe_split": {"data": [[1, 2]]}})
                        seen[response.text] += 1
                    except httpx.HTTPError as error:
                        seen[repr(error)] += 1

        asking = asyncio.create_task(asyncio.to_thread(ask_mlflow))
        await eventually(lambda: seen)
        await orchestrator.provision(order(deployment, 2, tmp_path / "2"), ignore)
        await orchestrator.prune(deployment, 2)
        await eventually(lambda: len(seen) > 1)
        await asyncio.sleep(0.2)
        stop.set()
        await asking
        assert set(seen) == {'{"predictions": [{"0": 3}]}', '{"predictions": [{"0": 6}]}'}

    async def test_a_connection_that_never_asked_is_moved_too(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        # given a connection that was open before the update, and silent
        deployment = uuid.uuid4()
        target = await orchestrator.provision(order(deployment, 1, models[1]), ignore)
        assert target.endpoint_url is not None
        port = httpx.URL(target.endpoint_url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # when the older revision has gone
        await orchestrator.provision(order(deployment, 2, models[2]), ignore)
        await orchestrator.prune(deployment, 2)
        # then it is answered by the newer one
        writer.write(b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        response = await reader.read()
        assert b'"version":"2"' in response
        writer.close()

    async def test_limits_hold_from_the_next_provision_on(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        assert url is not None
        assert ask(url) == ("1", 1.0)
        strict = local(root, limits=Limits(max_body_bytes=10))
        await strict.provision(order(deployment, 1, models[1]), ignore)
        assert httpx.post(f"{url}/v2/models/Adder_1/infer", json=ASK, timeout=60).status_code == 413

    async def test_going_back_to_a_revision_that_still_runs(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        assert url is not None
        await orchestrator.provision(order(deployment, 2, models[2]), ignore)
        assert ask(url) == ("2", 2.0)
        await orchestrator.prune(deployment, 1)
        assert ask(url) == ("1", 1.0)
        assert (await orchestrator.observe(deployment)).revision == 1
        assert await orchestrator.provisioned() == {deployment: {1}}

    async def test_another_port_is_opened_at_once_and_the_old_one_closed_by_prune(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        deployment, port = uuid.uuid4(), free_port()
        old = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        new = (await orchestrator.provision(order(deployment, 2, models[2], port=port), ignore)).endpoint_url
        assert old is not None
        assert new == f"http://127.0.0.1:{port}"
        assert ask(old) == ask(new) == ("2", 2.0)
        await orchestrator.prune(deployment, 2)
        assert ask(new) == ("2", 2.0)
        with pytest.raises(httpx.ConnectError):
            ask(old)

    async def test_logs_are_followed_across_revisions_until_the_end(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        await orchestrator.provision(order(deployment, 1, models[1]), ignore)
        lines: list[str] = []

        async def follow() -> None:
            async for line in orchestrator.logs(deployment, follow=True):
                lines.append(line)

        following = asyncio.create_task(follow())
        await eventually(lambda: any("Uvicorn running" in line for line in lines))
        lines.clear()
        await orchestrator.provision(order(deployment, 2, models[2]), ignore)
        await eventually(lambda: any("Uvicorn running" in line for line in lines))
        await orchestrator.prune(deployment, None)
        await asyncio.wait_for(following, 60)


class TestFailures:
    async def test_a_port_that_is_taken(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(ExternalServiceError, match=rf"Port {port} .* in use") as refused:
                await orchestrator.provision(order(uuid.uuid4(), 1, models[1], port=port), ignore)
        assert refused.value.reason is FailureReason.PORT_IN_USE
        assert not list(root.rglob("model")), "the model was extracted in vain"
        assert not processes_of(root)

    async def test_a_port_that_is_taken_leaves_the_older_revision_serving(
        self, orchestrator: LocalProcessOrchestrator, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        assert url is not None
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(ExternalServiceError) as refused:
                await orchestrator.provision(order(deployment, 2, models[2], port=port), ignore)
        assert refused.value.reason is FailureReason.PORT_IN_USE
        assert ask(url) == ("1", 1.0)

    async def test_an_mlflow_model_that_needs_a_package(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        model = tmp_path / "needs"
        model.mkdir()
        (model / "MLmodel").write_text("flavors: {python_function: {loader_module: not_installed}}")
        with pytest.raises(DeploymentError, match="'not_installed', which is not installed") as failed:
            await orchestrator.provision(order(uuid.uuid4(), 1, model), ignore)
        assert failed.value.reason is FailureReason.RUNTIME_MISSING

    async def test_a_corrupt_model(
        self, orchestrator: LocalProcessOrchestrator, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "corrupt").mkdir()
        (tmp_path / "corrupt" / "model.onnx").write_bytes(b"nonsense")
        with pytest.raises(DeploymentError, match="is not a model that ONNX Runtime can load") as failed:
            await orchestrator.provision(order(uuid.uuid4(), 1, tmp_path / "corrupt", replicas=2), ignore)
        assert failed.value.reason is FailureReason.MODEL_INVALID
        await eventually(lambda: not processes_of(root))

    async def test_a_failed_update_keeps_the_older_revision_and_can_be_retried(
        self,
        orchestrator: LocalProcessOrchestrator,
        models: dict[int, Path],
        tmp_path: Path,
    ) -> None:
        deployment = uuid.uuid4()
        url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        assert url is not None
        # given an MLflow model that ends its server
        broken = tmp_path / "broken"
        (broken / "code").mkdir(parents=True)
        (broken / "MLmodel").write_text("flavors: {python_function: {loader_module: ends, code: code}}")
        (broken / "code" / "ends.py").write_text("import os\n\nprint('Farewell')\nos._exit(3)\n")
        with pytest.raises(DeploymentError, match=r"ended with exit status 3(.|\n)*Farewell") as failed:
            await orchestrator.provision(order(deployment, 2, broken), ignore)
        assert failed.value.reason is FailureReason.SERVER_EXITED
        assert ask(url) == ("1", 1.0)
        # when it is tried again with one that can be served
        await orchestrator.prune(deployment, 1)
        await orchestrator.provision(order(deployment, 2, models[2]), ignore)
        assert ask(url) == ("2", 2.0)

    async def test_a_server_that_does_not_get_ready_is_stopped(
        self, root: Path, models: dict[int, Path]
    ) -> None:
        impatient = local(root, ready_timeout=0.05)
        with pytest.raises(DeploymentError, match=r"not ready within 0\.05 seconds") as failed:
            await impatient.provision(order(uuid.uuid4(), 1, models[1]), ignore)
        assert failed.value.reason is FailureReason.SERVER_NOT_READY
        await eventually(lambda: not processes_of(root))


def flip_the_port(path: Path) -> None:
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "port": state["port"] ^ 1, "pid": 1}))


STATE_DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"\xff\xfe\0garbage"),
    "another port": flip_the_port,
    "a folder": lambda path: (path.unlink(), path.mkdir(), (path / "it").touch()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "gone": lambda path: path.unlink(),
}


async def test_a_gateway_writes_the_file_by_which_it_is_found_again(
    orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
) -> None:
    deployment = uuid.uuid4()
    await orchestrator.provision(order(deployment, 1, models[1]), ignore)
    folder = root / str(deployment)
    for damage in STATE_DAMAGE.values():
        damage(folder / "gateway.json")
        assert (await orchestrator.observe(deployment)).running
    (folder / "port.json").write_text('{"port": "none"}')
    (folder / "gateway.json").write_text("[]")
    url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
    assert url is not None
    assert ask(url)
    (folder / "gateway.json").write_text("[]")
    await orchestrator.prune(deployment, None)
    assert not processes_of(root)


async def test_an_earlier_gateway_is_replaced_once_it_has_no_replica(
    orchestrator: LocalProcessOrchestrator,
    root: Path,
    models: dict[int, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    deployment = uuid.uuid4()
    module = tmp_path / "module-of-the-earlier-version"
    module.touch()

    def gateway_without_number(name: str, *arguments: str) -> list[str]:
        program = f"from {name} import __main__ as gateway; gateway.PROGRAMS = None; gateway.main()"
        return [sys.executable, "-c", program, *arguments]

    def replica_of_a_module_that_will_be_gone(name: str, *arguments: str) -> list[str]:
        program = f"import runpy; open({str(module)!r}); runpy.run_module({name!r}, run_name='__main__')"
        return [sys.executable, "-c", program, *arguments]

    with monkeypatch.context() as earlier:
        earlier.setattr(gateway_process, "python_command", gateway_without_number)
        earlier.setattr(runtimes, "python_command", replica_of_a_module_that_will_be_gone)
        started = await orchestrator.provision(order(deployment, 1, models[1]), ignore)
    gateway = gateway_state(root, deployment)["pid"]
    assert (await orchestrator.provision(order(deployment, 1, models[1]), ignore)) == started
    assert gateway_state(root, deployment)["pid"] == gateway

    module.unlink()
    for replica in replicas_of(root):
        os.kill(replica, signal.SIGKILL)
    while (await orchestrator.observe(deployment)).running:
        await asyncio.sleep(0.02)
    assert (await orchestrator.provision(order(deployment, 1, models[1]), ignore)) == started
    assert gateway_state(root, deployment)["pid"] != gateway
    assert ask(str(started.endpoint_url)) == ("1", 1.0)


def provision_elsewhere(root: Path, request: ProvisionRequest, results: Any) -> None:
    target = asyncio.run(local(root).provision(request, ignore))
    results.put(target.endpoint_url)


class TestKilled:
    async def test_a_killed_replica_is_replaced(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        url = (await orchestrator.provision(order(deployment, 1, models[1]), ignore)).endpoint_url
        assert url is not None
        (replica,) = replicas_of(root)
        os.kill(replica, signal.SIGKILL)
        # a client that comes meanwhile waits for the next one, and is answered
        while httpx.post(f"{url}/v2/models/Adder_1/infer", json=ASK, timeout=60).status_code == 503:
            pass  # on a busy machine the next one may take longer than clients are made to wait
        assert ask(url) == ("1", 1.0)
        assert replicas_of(root) != [replica]
        observation = await orchestrator.observe(deployment)
        assert observation.detail == "1 of 1 replicas ready, 1 restarts"
        lines = [line async for line in orchestrator.logs(deployment, follow=False)]
        assert any("replica 0 ended with signal SIGKILL; starting it again" in line for line in lines)

    async def test_a_killed_gateway_leaves_nothing_and_is_replaced_on_the_same_port(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        request = order(deployment, 1, models[1], replicas=2)
        target = await orchestrator.provision(request, ignore)
        assert target.endpoint_url is not None
        with httpx.Client() as client:
            answer(client, target.endpoint_url)
            os.kill(gateway_state(root, deployment)["pid"], signal.SIGKILL)
            await eventually(lambda: not processes_of(root))
        assert not (await orchestrator.observe(deployment)).running
        assert await orchestrator.provision(request, ignore) == target
        assert ask(target.endpoint_url) == ("1", 1.0)
        assert sum("deployledger.gateway" in command for command in processes_of(root).values()) == 1

    async def test_a_stuck_gateway_is_replaced(
        self,
        orchestrator: LocalProcessOrchestrator,
        root: Path,
        models: dict[int, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("deployledger.adapters.local.gateway_process._ANSWER_SECONDS", 2.0)
        deployment = uuid.uuid4()
        request = order(deployment, 1, models[1])
        target = await orchestrator.provision(request, ignore)
        assert target.endpoint_url is not None
        os.kill(gateway_state(root, deployment)["pid"], signal.SIGSTOP)
        assert not (await orchestrator.observe(deployment)).running
        assert await orchestrator.provision(request, ignore) == target
        assert ask(target.endpoint_url) == ("1", 1.0)

    async def test_a_gateway_whose_folder_is_gone_ends(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        await orchestrator.provision(order(uuid.uuid4(), 1, models[1]), ignore)
        while root.exists():
            shutil.rmtree(root, ignore_errors=True)  # the gateway may write a file meanwhile
        await eventually(lambda: not processes_of(root))

    async def test_two_processes_that_provision_the_same_revision_share_one_gateway(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        results: Any = spawn.Queue()
        request = order(uuid.uuid4(), 1, models[1])
        both = [spawn.Process(target=provision_elsewhere, args=(root, request, results)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            await asyncio.to_thread(process.join)
        urls = {results.get(timeout=60) for _ in both}
        assert len(urls) == 1
        assert ask(urls.pop()) == ("1", 1.0)
        assert len(processes_of(root)) == 2, "one gateway and one replica"

    async def test_a_cancelled_provision_is_pruned_or_joined_again(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        request = order(deployment, 1, models[1])
        provisioning = asyncio.create_task(orchestrator.provision(request, ignore))
        await eventually(lambda: replicas_of(root))
        provisioning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await provisioning
        (replica,) = replicas_of(root)
        url = (await orchestrator.provision(request, ignore)).endpoint_url
        assert url is not None
        assert ask(url) == ("1", 1.0)
        assert replicas_of(root) == [replica]
        await orchestrator.prune(deployment, None)
        assert not processes_of(root)

    async def test_pruning_ends_a_provision_that_waits(
        self, orchestrator: LocalProcessOrchestrator, root: Path, models: dict[int, Path]
    ) -> None:
        deployment = uuid.uuid4()
        provisioning = asyncio.create_task(orchestrator.provision(order(deployment, 1, models[1]), ignore))
        await eventually(lambda: replicas_of(root))
        await orchestrator.prune(deployment, None)
        with pytest.raises((ExternalServiceError, DeploymentError)):
            await provisioning
        assert entries(root) == []
