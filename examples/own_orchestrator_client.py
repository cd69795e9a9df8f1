"""A container registry and an orchestrator of one's own, in one process.

`TarRegistry` keeps each model as a tar file, and `ThreadOrchestrator` answers for it from a thread of this
process. Neither is of use in production; both keep every promise that `docs/clients.md` asks of a client.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

from deployledger.domain import (
    ConfigurationError,
    DeploymentError,
    DeploymentTargetConfig,
    ExternalServiceError,
    FailureReason,
    Image,
    JobResult,
    Observation,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
    ResourceConfig,
)


class TarRegistry:
    """Keeps images as ``<root>/<digest>.tar``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Pack the model's files; the same files give the same bytes, and so the same digest.

        Raises:
            ExternalServiceError: the image cannot be stored.
        """
        try:
            return await asyncio.to_thread(self._build, request.model_path)
        except OSError as error:
            raise ExternalServiceError(
                "container registry",
                f"The image of {request.deployment_name!r} could not be stored: {error.strerror}.",
                reason=FailureReason.STORAGE_FAILED,
                hint=f"Check that {self._root} is writable and has room, then retry.",
            ) from error

    def _build(self, model: Path) -> Image:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._root)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted(path for path in model.rglob("*") if path.is_file()):
                tar.add(path, path.relative_to(model), recursive=False, filter=_without_circumstances)
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        image = self._root / f"{digest}.tar"
        Path(name).rename(image)  # it is there whole or not at all, however often it is built
        return Image(reference=f"tar:{image}", digest=f"sha256:{digest}", size_bytes=image.stat().st_size)


def _without_circumstances(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.mode = 0o644
    entry.uname = entry.gname = ""
    return entry


class ThreadOrchestrator:
    """Serves what a revision is made of as JSON, from a thread; nothing survives the end of the process."""

    name = "threads"
    target_types = frozenset({"api_service"})

    def __init__(self) -> None:
        self._lock = threading.Lock()  # it is called from more than one event loop
        self._servers: dict[UUID, dict[int, ThreadingHTTPServer]] = {}

    def check_target(
        self, deployment_name: str, target: DeploymentTargetConfig, resources: ResourceConfig | None
    ) -> None:
        """Refuse at once, before anything is stored, what can never be provisioned.

        Raises:
            ConfigurationError: more than one replica is asked for.
        """
        if target.replicas > 1:
            raise ConfigurationError(
                f"{deployment_name!r} requests {target.replicas} replicas, but a thread serves only one.",
                hint="Omit replicas.",
            )

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Start a revision's server, unless it runs already: this may be called again at any time.

        Raises:
            ExternalServiceError: the port is in use.
        """
        revision = {
            "model": request.deployment_name,
            "revision": request.revision,
            "image": request.image.digest,
        }
        with self._lock:
            servers = self._servers.setdefault(request.deployment_id, {})
            if request.revision not in servers:
                try:
                    servers[request.revision] = _serve(revision, request.target.port or 0)
                except OSError as error:
                    raise ExternalServiceError(
                        "orchestrator",
                        f"{request.deployment_name!r} cannot be served: its port is in use.",
                        reason=FailureReason.PORT_IN_USE,
                        hint="Choose another port, or leave it out to get a free one.",
                    ) from error
            port = servers[request.revision].server_port
        report(1, 1, "replicas")
        return ProvisionedTarget(endpoint_url=f"http://127.0.0.1:{port}")

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Stop every revision but one, or all; with nothing to stop it does nothing."""
        with self._lock:
            servers = self._servers.get(deployment_id, {})
            doomed = [servers.pop(number) for number in list(servers) if number != keep_revision]
            if not servers:
                self._servers.pop(deployment_id, None)
        for server in doomed:
            # Stopping blocks, and goes on in its thread if this call is cancelled.
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Never called: there are no batch jobs among the target types.

        Raises:
            DeploymentError: always.
        """
        raise DeploymentError(str(deployment_id), "Threads cannot run batch jobs.")

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return which revisions run."""
        with self._lock:
            return {deployment_id: set(servers) for deployment_id, servers in self._servers.items()}

    async def observe(self, deployment_id: UUID) -> Observation:
        """Return what runs of a deployment. A service that finds nothing provisions it again."""
        revisions = (await self.provisioned()).get(deployment_id, set())
        return Observation(running=bool(revisions), revision=max(revisions, default=None))

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield a line for each revision that runs."""
        for revision in sorted((await self.provisioned()).get(deployment_id, set())):
            yield f"revision {revision} is served by a thread"


def _serve(answer: dict[str, object], port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


async def main() -> None:
    """Deploy a model with these clients, update it, and be refused what they cannot do."""
    from deployledger.app import MLModelDeploymentService
    from deployledger.domain import DeploymentRequest
    from examples.own_registry_client import FolderRegistry

    def request(version: int, **target: int) -> DeploymentRequest:
        return DeploymentRequest(
            model_uri=str(Path(__file__).parent / "models" / f"iris-v{version}.onnx"),
            deployment_name="iris-on-threads",
            deployment_target_config=DeploymentTargetConfig(type="api_service", **target),
        )

    with tempfile.TemporaryDirectory() as folder:
        clients = FolderRegistry(folder), TarRegistry(Path(folder, "images")), ThreadOrchestrator()
        async with MLModelDeploymentService(*clients) as service:
            accepted = await service.deploy_model(request(1))
            await service.wait_for_deployment(accepted.deployment_id, timeout=60)
            await service.update_deployment(accepted.deployment_id, request(2))
            status = await service.wait_for_deployment(accepted.deployment_id, timeout=60)
            print(f"{status.deployment_name} is {status.status}: {status.message}")
            with contextlib.suppress(ConfigurationError):
                await service.update_deployment(accepted.deployment_id, request(2, replicas=2))
                raise AssertionError("two replicas were accepted")
            await service.delete_deployment(accepted.deployment_id)
            await service.wait_for_deployment(accepted.deployment_id, timeout=60)
        assert await clients[2].provisioned() == {}


if __name__ == "__main__":
    asyncio.run(main())
