"""The steps of a deployment's job: fetch, package, provision, run, delete.

Each step reads what earlier ones recorded, does its work through the clients, and returns a function that
records the result on the deployment. A step may run again after a crash: its effects are idempotent.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployledger.domain.deployment import Deployment, Revision
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import ConfigurationError, DeploymentError, ModelRegistryError
from deployledger.domain.lifecycle import State
from deployledger.domain.ports import (
    OrchestratorClientInterface,
    PackageRequest,
    ProvisionRequest,
    ReportProgress,
    ResolvedModel,
    ResolvesModelVersions,
)
from deployledger.domain.reasons import FailureReason
from deployledger.domain.redaction import without_credentials
from deployledger.domain.values import Artifact, Image, Step
from deployledger.service.clients import Clients, simulated_artifact, simulated_image

Record = Callable[[Deployment, CommandContext], None]
"""Records the result of a step on the deployment."""


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:")
"""What a URI begins with; a path that begins so is written ``./like:this``."""


def next_step(deployment: Deployment) -> Step | None:
    """Return what there is to do on a deployment, or None."""
    match deployment.state:
        case State.REQUESTED:
            return Step.FETCH
        case State.ARTIFACTS_FETCHED:
            return Step.PACKAGE
        case State.PACKAGED:
            return Step.PROVISION
        case State.ACTIVE if deployment.is_batch_job:
            return Step.RUN
        case State.DELETING:
            return Step.DELETE
        case _:
            return None


def local_path(model_uri: str) -> Path | None:
    """Return the path that a direct path or ``file://`` URI names, or None for another kind of URI.

    Raises:
        ConfigurationError: if it is malformed.
    """
    try:
        if model_uri.startswith("file:"):
            return Path(unquote(urlsplit(model_uri).path))
        return None if _SCHEME.match(model_uri) else Path(model_uri).expanduser()
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigurationError(
            f"The model URI {without_credentials(model_uri)!r} names no path: {error}."
        ) from error


@dataclass(frozen=True)
class Pipeline:
    """Does the steps, with the clients that there are.

    Attributes:
        workspace: a folder for what is being downloaded, on the same disk as the artifact store.
    """

    clients: Clients
    orchestrator: OrchestratorClientInterface
    workspace: Path

    async def run(self, step: Step, deployment: Deployment, report: ReportProgress) -> Record:
        """Do one step of a deployment's job and return how to record it."""
        match step:
            case Step.FETCH:
                return await self._fetch(deployment)
            case Step.PACKAGE:
                return await self._package(deployment)
            case Step.PROVISION:
                return await self._provision(deployment, report)
            case Step.RUN:
                return await self._run(deployment, report)
            case Step.DELETE:
                await self.orchestrator.prune(deployment.id, None)
                simulated = self.clients.orchestrator is None
                return lambda current, by: current.deleted(simulated=simulated, by=by)

    async def reconcile(self, deployment: Deployment) -> None:
        """Make what runs what the log says: the serving revision, started again if need be, and no other."""
        serving = deployment.serving_revision
        if self.clients.orchestrator is not None and serving is not None:
            observed = await self.orchestrator.observe(deployment.id)
            if not observed.running:
                request = _provision_request(deployment, deployment.revisions[serving])
                await self.orchestrator.provision(request, lambda done, total, unit: None)
        await self.orchestrator.prune(deployment.id, serving)

    async def _fetch(self, deployment: Deployment) -> Record:
        revision = deployment.revision
        if self.clients.model_registry is None or self.clients.artifacts is None:
            artifact = simulated_artifact(revision.model_uri)
            return lambda current, by: current.artifacts_fetched(
                revision.number, artifact, simulated=True, by=by
            )
        pinned = revision.artifact
        if pinned is not None and await self.clients.artifacts.path_of(pinned.digest) is not None:
            artifact = pinned
        else:
            artifact = await self._download(deployment, pinned.resolved_uri if pinned else revision.model_uri)
            if pinned is not None and artifact.digest != pinned.digest:
                raise DeploymentError(
                    deployment.name,
                    f"The model at {pinned.resolved_uri} is no longer the one that was deployed: "
                    f"its digest was {pinned.digest}, and now is {artifact.digest}.",
                    reason=FailureReason.MODEL_CHANGED,
                    hint="Restore the files, or update the deployment to the model as it is now.",
                )
        return lambda current, by: current.artifacts_fetched(
            revision.number, artifact, simulated=False, by=by
        )

    async def _download(self, deployment: Deployment, model_uri: str) -> Artifact:
        registry, artifacts = self.clients.model_registry, self.clients.artifacts
        assert registry is not None  # noqa: S101  # the caller checked; a placeholder has neither
        assert artifacts is not None  # noqa: S101
        direct = local_path(model_uri)
        if direct is not None:
            return await artifacts.add(direct, resolved_uri=model_uri)
        resolved = ResolvedModel(model_uri)
        if isinstance(registry, ResolvesModelVersions):
            pinned = await registry.resolve_model(model_uri)
            resolved = ResolvedModel(without_credentials(pinned.uri), pinned.version)
        self.workspace.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{deployment.id}-", dir=self.workspace)
        try:
            try:
                downloaded = await registry.download_artifacts(**_download_arguments(resolved.uri, folder))
            except (ModelRegistryError, DeploymentError):
                raise
            except Exception as error:  # a user's client raises what it likes
                raise ModelRegistryError(
                    f"The model registry could not give {resolved.uri}: "
                    f"{type(error).__name__}: {without_credentials(str(error))}",
                    reason=FailureReason.MODEL_NOT_FOUND if isinstance(error, FileNotFoundError) else None,
                    hint="Check the registry and the URI, then retry.",
                ) from error
            if not isinstance(downloaded, str | PathLike) or not str(downloaded):
                raise ModelRegistryError(
                    f"The model registry answered {downloaded!r} for {resolved.uri}, which is no path.",
                    hint="download_artifacts returns the local path of what it downloaded.",
                )
            return await artifacts.add(
                Path(downloaded), resolved_uri=resolved.uri, model_version=resolved.version
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _package(self, deployment: Deployment) -> Record:
        revision = deployment.revision
        if revision.artifact is None:
            raise DeploymentError(deployment.name, "The artifacts of this revision are not recorded.")
        image: Image
        if self.clients.container_registry is None or self.clients.artifacts is None:
            image, simulated = simulated_image(revision.artifact), True
        else:
            path = await self.clients.artifacts.path_of(revision.artifact.digest)
            if path is None:
                raise DeploymentError(
                    deployment.name,
                    f"The artifact store no longer has {revision.artifact.digest}.",
                    reason=FailureReason.STORAGE_FAILED,
                    hint="Retry the deployment: its artifacts are then fetched again.",
                )
            image, simulated = (
                await self.clients.container_registry.build_and_push(
                    PackageRequest(
                        deployment_id=deployment.id,
                        deployment_name=deployment.name,
                        revision=revision.number,
                        artifact=revision.artifact,
                        model_path=path,
                        target=revision.target,
                    )
                ),
                False,
            )
        return lambda current, by: current.packaged(revision.number, image, simulated=simulated, by=by)

    async def _provision(self, deployment: Deployment, report: ReportProgress) -> Record:
        revision = deployment.revision
        target = await self.orchestrator.provision(_provision_request(deployment, revision), report)
        simulated = self.clients.orchestrator is None
        endpoint_url = target.endpoint_url and without_credentials(target.endpoint_url)
        return lambda current, by: current.provisioned(
            revision.number, endpoint_url, simulated=simulated, by=by
        )

    async def _run(self, deployment: Deployment, report: ReportProgress) -> Record:
        revision = deployment.revision
        result = await self.orchestrator.wait_for_completion(deployment.id, revision.number, report)
        simulated = self.clients.orchestrator is None
        output_uri = result.output_uri or revision.target.output_uri or ""
        return lambda current, by: current.completed(
            revision.number, output_uri, result.rows, simulated=simulated, by=by
        )


def _provision_request(deployment: Deployment, revision: Revision) -> ProvisionRequest:
    if revision.image is None:
        raise DeploymentError(deployment.name, f"The image of revision {revision.number} is not recorded.")
    return ProvisionRequest(
        deployment_id=deployment.id,
        deployment_name=deployment.name,
        revision=revision.number,
        image=revision.image,
        target=revision.target,
        resources=revision.resources,
    )


def _download_arguments(model_uri: str, folder: str) -> dict[str, str]:
    """Return the arguments of ``download_artifacts``: a run's URI is taken apart, others go whole."""
    scheme, _, rest = model_uri.partition(":")
    if scheme in ("runs", "mlflow_runs"):
        run_id, _, artifact_path = rest.lstrip("/").partition("/")
        return {"run_id": run_id, "artifact_path": artifact_path, "dst_path": folder}
    return {"model_uri": model_uri, "dst_path": folder}
