"""Clients that keep the promises of their ports and need nothing but memory."""

import asyncio
import hashlib
import io
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from uuid import UUID

from deployledger.domain import (
    Image,
    JobResult,
    Observation,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
)


class InMemoryModelRegistry:
    """Provides models' files from memory.

    Args:
        models: the contents of each model's files, by model URI and by path; without it, every URI is a model
            with one file, which holds the URI.
    """

    def __init__(self, models: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self._models = models

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        """Write the files of a model into ``dst_path``.

        Raises:
            FileNotFoundError: there is no such model.
        """
        uri = model_uri or f"runs:/{run_id}/{artifact_path or ''}".rstrip("/")
        files = {"model.txt": uri.encode()} if self._models is None else self._models.get(uri)
        if files is None:
            raise FileNotFoundError(f"No model {uri!r} in memory.")
        return str(await asyncio.to_thread(_write, files, Path(dst_path or tempfile.mkdtemp()) / "model"))


def _write(files: Mapping[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


class InMemoryContainerRegistry:
    """Keeps images as tar archives in memory.

    Attributes:
        images: the archive of each image, by its reference.
    """

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Archive the model's files; equal files have the same digest."""
        archive = await asyncio.to_thread(_archive, request.model_path)
        digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
        self.images[f"memory:{digest}"] = archive
        return Image(reference=f"memory:{digest}", digest=digest, size_bytes=len(archive))

    async def unpack(self, reference: str, destination: Path) -> None:
        """Unpack an image as the folder ``destination``."""
        with tarfile.open(fileobj=io.BytesIO(self.images[reference])) as archive:
            await asyncio.to_thread(archive.extractall, destination, filter="data")


def _archive(model: Path) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for path in sorted(path for path in model.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(model)))
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return output.getvalue()


class InMemoryOrchestrator:
    """A cluster in memory, in which what is provisioned counts as running.

    Attributes:
        name: what events call it.
        runs: the revisions that run, by deployment.
    """

    target_types = frozenset({"api_service", "batch_inference_job"})

    def __init__(self, name: str = "in-memory") -> None:
        self.name = name
        self.runs: dict[UUID, set[int]] = {}

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Note that the revision runs."""
        self.runs.setdefault(request.deployment_id, set()).add(request.revision)
        if request.target.type == "batch_inference_job":
            return ProvisionedTarget(None)
        report(request.target.replicas, request.target.replicas, "replicas")
        return ProvisionedTarget(f"http://{self.name}/{request.deployment_name}/{request.revision}")

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Forget every revision but one, or all."""
        kept = {revision for revision in self.runs.pop(deployment_id, set()) if revision == keep_revision}
        if kept:
            self.runs[deployment_id] = kept

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Complete at once."""
        report(10, 10, "rows")
        return JobResult(output_uri="memory:output", rows=10)

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return what runs."""
        return {deployment_id: set(revisions) for deployment_id, revisions in self.runs.items()}

    async def observe(self, deployment_id: UUID) -> Observation:
        """Return whether a deployment runs, and its newest revision."""
        revisions = self.runs.get(deployment_id, set())
        return Observation(running=bool(revisions), revision=max(revisions, default=None))

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield one line for each revision that runs."""
        for revision in sorted(self.runs.get(deployment_id, set())):
            yield f"revision {revision} runs in memory"
