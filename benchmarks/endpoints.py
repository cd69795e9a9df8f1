"""Models that are served for a benchmark: by this service, and by the baselines."""

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.domain.ports import ProvisionRequest
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.values import Artifact, Image
from deployledger.service.files.listing import FileEntry, encode_listing, list_files, tree_digest

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Endpoint:
    """A deployed model.

    Attributes:
        url: of its gateway.
        root: the folder that its processes have in their command lines.
    """

    url: str
    root: Path

    def servers(self) -> list[int]:
        """Return the ids of its model servers' processes."""
        return [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if str(self.root).encode() in (command := _read(entry)) and b"deployledger.serving" in command
        ]


@contextmanager
def deployed(model: Path, name: str, *, replicas: int = 1) -> Iterator[Endpoint]:
    """Deploy a model file or folder on this machine, behind a gateway."""
    with tempfile.TemporaryDirectory() as folder:
        files, root = Path(folder) / "model", Path(folder) / "root"
        if model.is_dir():
            shutil.copytree(model, files)
        else:
            files.mkdir()
            shutil.copy(model, files / "model.onnx")
        orchestrator = LocalProcessOrchestrator(root, extract_model=_copy)
        entries = list_files(files)
        request = ProvisionRequest(
            deployment_id=uuid.uuid4(),
            deployment_name=name,
            revision=1,
            artifact=Artifact(
                digest=tree_digest(encode_listing(entries)),
                size_bytes=sum(entry.size for entry in entries),
                file_count=len(entries),
                resolved_uri=files.as_uri(),
            ),
            image=Image(reference=str(files), digest=f"sha256:{'0' * 64}", size_bytes=1),
            target=DeploymentTargetConfig(type="api_service", replicas=replicas),
            resources=None,
        )
        try:
            target = asyncio.run(orchestrator.provision(request, lambda done, total, unit: None))
            yield Endpoint(str(target.endpoint_url), root)
        finally:
            asyncio.run(orchestrator.prune(request.deployment_id, None))


@contextmanager
def started(command: Sequence[str | Path], port: int, cwd: Path | None = None) -> Iterator[str]:
    """Start a server that listens on a port of the loopback interface, and yield its URL."""
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} {command[1]} does not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _copy(reference: str, destination: Path) -> list[FileEntry]:
    shutil.copytree(reference, destination)
    return list_files(destination)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
