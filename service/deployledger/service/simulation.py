"""How the clients that a service lacks are simulated."""

import hashlib
from collections.abc import AsyncIterator
from uuid import UUID

from deployledger.domain.ports import (
    JobResult,
    Observation,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
)
from deployledger.domain.target_types import TARGET_TYPES
from deployledger.domain.values import Artifact, Image

SIMULATED = "simulated"


def simulated_artifact(model_uri: str) -> Artifact:
    """Return an artifact with no files, whose digest is that of the URI."""
    return Artifact(digest=_digest(model_uri), size_bytes=0, file_count=0, resolved_uri=model_uri)


def simulated_image(artifact: Artifact) -> Image:
    """Return an image that was never built."""
    digest = _digest(f"image of {artifact.digest}")
    return Image(reference=f"{SIMULATED}:{digest}", digest=digest, size_bytes=0)


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class SimulatedOrchestrator:
    """Stands in for an orchestrator: accepts everything, and runs nothing."""

    name = SIMULATED
    target_types = frozenset(TARGET_TYPES)

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Return an endpoint at a name that never resolves (RFC 6761)."""
        if request.target.is_batch_job:
            return ProvisionedTarget(None)
        port = f":{request.target.port}" if request.target.port else ""
        return ProvisionedTarget(f"http://{request.deployment_name.lower()}.simulated.invalid{port}")

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Stop nothing."""

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Return at once, with no rows scored."""
        return JobResult(output_uri="", rows=0)

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return nothing: nothing runs."""
        return {}

    async def observe(self, deployment_id: UUID) -> Observation:
        """Say that nothing runs."""
        return Observation(running=False, revision=None, detail="simulated")

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield the one line there is to say."""
        yield "This deployment is simulated: no server runs, and there are no logs."
