"""The orchestrator of this machine."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

from deployledger.adapters.local.extraction import ExtractModel, KeptModels, Unpacking
from deployledger.adapters.local.folders import DeploymentFolder, deployment_folders, sweep
from deployledger.adapters.local.inspection import extracted_models
from deployledger.adapters.local.jobs import BatchJobs
from deployledger.adapters.local.locations import batch_files
from deployledger.adapters.local.log_lines import log_lines
from deployledger.adapters.local.services import ModelServices
from deployledger.adapters.local.target_types import LocalTargetType
from deployledger.domain.exceptions import ConfigurationError, ExternalServiceError
from deployledger.domain.ports import (
    JobResult,
    Observation,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
)
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.stored import Decide, Kind, Stored, Verdict
from deployledger.gateway import Limits
from deployledger.service.files.locks import locked_async
from deployledger.service.files.private import make_folder
from deployledger.service.files.reading import read_stored
from deployledger.service.files.staging import remove
from deployledger.service.files.writing import write_new

_IDENTITY = re.compile(r"[0-9a-f]{12}")


class LocalProcessOrchestrator:
    """Runs model servers and batch jobs as processes of this machine.

    It implements `deployledger.domain.ports.OrchestratorClientInterface`, holds nothing in memory, and any
    number of processes may use the same root at once.

    Args:
        root: where everything about the running deployments is kept; a local file system, for its locks.
        extract_model: unpacks the image with a reference into a folder.
        kept: models on the same disk, whose files are linked to rather than unpacked.
        host: the address that public ports listen on.
        ready_timeout: how long a replica may take to become ready, in seconds.
        limits: what endpoints accept from their clients.
    """

    def __init__(
        self,
        root: Path,
        *,
        extract_model: ExtractModel,
        kept: KeptModels | None = None,
        host: str = "127.0.0.1",
        ready_timeout: float = 120.0,
        limits: Limits | None = None,
    ) -> None:
        self._root = root.absolute()
        self._name: str | None = None
        unpacking = Unpacking(extract_model, kept)
        self._services = ModelServices(host, ready_timeout, limits or Limits(), unpacking)
        self._jobs = BatchJobs(unpacking)

    @property
    def name(self) -> str:
        """What events call this orchestrator: no other root, here or on another machine, has this name."""
        if self._name is None:
            self._name = f"local-process:{_identity(self._root)}"
        return self._name

    @property
    def target_types(self) -> frozenset[str]:
        """What it can provision."""
        return frozenset(get_args(LocalTargetType))

    def check_target(
        self, deployment_name: str, target: DeploymentTargetConfig, resources: ResourceConfig | None
    ) -> None:
        """Refuse batch jobs whose files are not on this machine.

        Raises:
            ConfigurationError: it is one.
        """
        if target.is_batch_job:
            batch_files(target, deployment_name)

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Start a revision, wait until it is ready, and send the traffic to it; a batch job is only started.

        Calling it again, in this process or another, joins what runs. Being cancelled leaves what was begun
        to `prune`.

        Raises:
            ConfigurationError: the target cannot be provisioned on this machine as it is written.
            DeploymentError: the model has no format that can be served, or its server does not start.
            ExternalServiceError: the port is taken, or the gateway process does not work.
        """
        folder = DeploymentFolder(self._root, request.deployment_id)
        match request.target.type:
            case "api_service":
                url = await self._services.provision(folder, request, report)
                return ProvisionedTarget(endpoint_url=url)
            case "batch_inference_job":
                await self._jobs.provision(folder, request)
                return ProvisionedTarget(endpoint_url=None)
        raise ConfigurationError(
            f"{request.deployment_name!r} has the target type {request.target.type!r}, "
            "which this machine cannot provision.",
            hint=f"It can provision {' and '.join(sorted(self.target_types))}.",
        )

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Send traffic to ``keep_revision`` and stop every other one; with None, remove the deployment.

        Requests that are on their way get some seconds to finish. A batch job's output is never removed.

        Raises:
            ExternalServiceError: something does not stop.
        """
        folder = DeploymentFolder(self._root, deployment_id)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(locked_async(folder.operate_lock, create_folder=False))
            except FileNotFoundError:
                if keep_revision is None:
                    await self._jobs.forget(folder)
            else:
                await self._prune(folder, keep_revision)
        await asyncio.to_thread(sweep, self._root)

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Wait until a batch job is complete; any process may, and any number of them.

        Raises:
            DeploymentError: the job failed, died, or was stopped.
        """
        return await self._jobs.wait(DeploymentFolder(self._root, deployment_id), revision, report)

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return which revisions of which deployments have anything here, running or not."""

        def scan() -> dict[UUID, set[int]]:
            return {folder.deployment_id: folder.revisions() for folder in deployment_folders(self._root)}

        return await asyncio.to_thread(scan)

    async def stored(self, *, read: bool) -> list[Stored]:
        """Return the models that are extracted here, and damaged ones that were set aside.

        Args:
            read: whether to read every file and report what is damaged.
        """
        try:
            return await asyncio.to_thread(lambda: list(extracted_models(self._root, read=read)))
        except OSError as error:
            raise _unusable(self._root, error) from error

    async def free(self, decide: Decide, user: str) -> None:
        """Free damaged models that were set aside; `prune` removes the others with their deployments.

        Raises:
            ExternalServiceError: they cannot be listed.
        """

        def free() -> None:
            stored = list(extracted_models(self._root, read=False))
            for each, decision in zip(stored, decide(stored), strict=True):
                if each.kind is Kind.DAMAGED_FILE and decision.verdict is Verdict.FREE:
                    remove(Path(each.path))

        try:
            await asyncio.to_thread(free)
        except OSError as error:
            raise _unusable(self._root, error) from error

    async def observe(self, deployment_id: UUID) -> Observation:
        """Return what of the deployment runs right now: processes are asked, nothing is remembered."""
        folder = DeploymentFolder(self._root, deployment_id)
        newest = max(await asyncio.to_thread(folder.revisions), default=None)
        if newest is None:
            return Observation(running=False, revision=None, detail="Nothing is provisioned.")
        if await asyncio.to_thread(folder.revision(newest).job_lock.exists):
            return await self._jobs.observe(folder, newest)
        return await self._services.observe(folder)

    def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield the log lines of the newest revision.

        With ``follow``, go on until the deployment is removed or the iteration is cancelled.
        """
        return log_lines(DeploymentFolder(self._root, deployment_id), follow=follow)

    async def _prune(self, folder: DeploymentFolder, keep: int | None) -> None:
        if keep is None:
            await self._services.end(folder)
        else:
            await self._services.keep_only(folder, keep)
        for revision in await asyncio.to_thread(folder.revisions) - {keep}:
            await self._jobs.stop(folder, revision)
            await asyncio.to_thread(folder.remove_revision, revision)
        await asyncio.to_thread(sweep, folder.path)
        if keep is None:
            await asyncio.to_thread(folder.remove)


def _identity(root: Path) -> str:
    """Return what tells this root from every other one; it is made once, and kept in the root."""
    path = root / "identity"
    try:
        if not path.exists():  # also where the folder cannot be written any more
            make_folder(root)
            write_new(path, uuid4().hex[:12].encode())  # the first one stays
        identity = read_stored(path).decode("ascii", errors="replace")
    except OSError as error:
        raise _unusable(root, error) from error
    if not _IDENTITY.fullmatch(identity):
        raise ExternalServiceError(
            "orchestrator",
            f"{path} is damaged: it has no name for this orchestrator.",
            reason=FailureReason.STORAGE_FAILED,
            hint="Write into it what follows `local-process:` in the events of the deployments here, 12 "
            "hexadecimal digits: `deployledger log tail --output json` shows them.",
        )
    return identity


def _unusable(root: Path, error: OSError) -> ExternalServiceError:
    return ExternalServiceError(
        "orchestrator",
        f"The folder {root} cannot be used: {error.strerror or error}.",
        reason=FailureReason.STORAGE_FAILED,
        hint="Check that it can be written, or set DEPLOYLEDGER_HOME to another folder.",
    )
