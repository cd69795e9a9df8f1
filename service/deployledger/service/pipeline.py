"""The steps of a deployment's job: fetch, package, provision, run, delete.

Each step reads what earlier ones recorded, does its work through the clients, and returns a function that
records the result on the deployment. A step may run again after a crash: its effects are idempotent.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from deployledger.domain.deployment import Deployment, Revision
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import (
    DeploymentError,
    InsufficientStorageError,
    MachineLearningServiceError,
    ModelRegistryError,
)
from deployledger.domain.logs import logger
from deployledger.domain.ports import (
    ChecksContents,
    JobResult,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
    ResolvedModel,
    ResolvesModelVersions,
    UnpacksImages,
)
from deployledger.domain.reasons import FailureReason
from deployledger.domain.redaction import without_credentials
from deployledger.domain.values import Artifact, Image, Step
from deployledger.service.clients import Clients
from deployledger.service.failures import described
from deployledger.service.files.disk_space import check_room, within_limits
from deployledger.service.files.paths import local_path
from deployledger.service.files.staging import staging_folder_async, sweep
from deployledger.service.outside_calls import Call, DeadlineError, OutsideCalls
from deployledger.service.simulation import simulated_artifact, simulated_image

LOGGER = logger("artifacts")

Record = Callable[[Deployment, CommandContext], None]
"""Records the result of a step on the deployment."""


@dataclass(frozen=True)
class Pipeline:
    """Does the steps, with the clients that there are.

    Attributes:
        workspace: a folder for what is being downloaded, on the same disk as the artifact store.
        calls: calls the clients.
        log_id: returns what tells the event log from every other one; it may block.
        largest_model: how many bytes a model may have; None sets no limit.
    """

    clients: Clients
    calls: OutsideCalls
    workspace: Path
    log_id: Callable[[], str]
    largest_model: int | None = None

    async def run(self, step: Step, deployment: Deployment, report: ReportProgress) -> Record:
        """Do one step of a deployment's job and return how to record it."""
        try:
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
                    await self._prune(deployment, None)
                    simulated = not self.clients.has_orchestrator
                    return lambda current, by: current.deleted(simulated=simulated, by=by)
        except InsufficientStorageError as error:  # which does not name the deployment
            raise DeploymentError(
                deployment.name,
                f"The model of deployment {deployment.name!r} was not stored: {error.message}.",
                reason=error.reason,
                hint=error.hint,
            ) from error

    @staticmethod
    def kind_of_slot(step: Step, deployment: Deployment) -> tuple[Step, str]:
        """Return what a step has in common with others that use the same client: for a fetch, the source."""
        revision = deployment.revision
        if step is not Step.FETCH or revision.artifact is not None:
            return step, ""
        scheme, _, rest = revision.model_uri.partition(":")
        host = rest[2:].partition("/")[0] if rest.startswith("//") else ""
        return step, f"{scheme}://{host}" if rest else "path"

    async def revive(self, deployment: Deployment) -> None:
        """Start the revision that serves again, if it does not run."""
        serving = deployment.serving_revision
        if self.clients.has_orchestrator and serving is not None:
            observed = await self.calls.call(
                Call.QUERY, deployment.id, self.clients.orchestrator.observe, deployment.id
            )
            if not observed.running or observed.damaged:
                revision = deployment.revisions[serving]
                await self._serve(deployment, revision, lambda done, total, unit: None)

    async def tidy(self, deployment: Deployment) -> None:
        """Stop everything of the deployment but the revision that serves."""
        await self._prune(deployment, deployment.serving_revision)

    async def _prune(self, deployment: Deployment, keep_revision: int | None) -> None:
        prune = self.clients.orchestrator.prune
        await self.calls.call(Call.PRUNE, deployment.id, prune, deployment.id, keep_revision)

    async def _fetch(self, deployment: Deployment) -> Record:
        revision = deployment.revision
        if self.clients.model_registry is None or self.clients.artifacts is None:
            artifact = simulated_artifact(revision.model_uri)
            return lambda current, by: current.artifacts_fetched(
                revision.number, artifact, simulated=True, by=by
            )
        if revision.artifact is not None:
            artifact = revision.artifact
            await self._model_folder(deployment, artifact)
        else:
            artifact = await self._download(deployment, revision.model_uri)
        return lambda current, by: current.artifacts_fetched(
            revision.number, artifact, simulated=False, by=by
        )

    async def _model_folder(self, deployment: Deployment, artifact: Artifact, *, read: bool = False) -> Path:
        """Return the folder with the files of an artifact; fetch again what is missing or damaged.

        It is fetched from its source; if that does not have it any more, from an image that was built of it.

        Args:
            read: whether to read all files; otherwise damage that names and sizes do not show stays.

        Raises:
            DeploymentError: files are damaged or missing, and cannot be fetched again.
        """
        damaged = await self._set_aside_damaged(deployment, artifact) if read else []
        folder = await self._complete(deployment, artifact)
        if folder is None:
            damaged = damaged or await self._set_aside_damaged(deployment, artifact)
            folder = await self._complete(deployment, artifact)
        if folder is None:
            await self._fetch_again(deployment, artifact, damaged)
            folder = await self._path_of(deployment, artifact)
        if folder is None:
            raise DeploymentError(
                deployment.name,
                f"The artifact store no longer has {artifact.digest} of deployment {deployment.name!r}.",
                reason=FailureReason.STORAGE_FAILED,
                hint="Another program removed it just now; retry the deployment.",
            )
        return folder

    async def _fetch_again(self, deployment: Deployment, artifact: Artifact, damaged: list[str]) -> None:
        """Fetch an artifact from where it was first fetched, or from an image of it.

        Args:
            damaged: what of it is damaged; nothing if the store does not have it at all.

        Raises:
            DeploymentError: no image has it, and the source has other files now, or none.
        """
        if damaged:
            what = f"The stored model of deployment {deployment.name!r} is damaged: {'; '.join(damaged)}."
        else:
            what = (
                f"The model {artifact.digest} of deployment {deployment.name!r} is no longer stored: "
                "`deployledger gc` frees models that the settings do not keep, or it was removed by hand."
            )
        hint = f"Restore the files at {artifact.resolved_uri} and retry, or update to another model."
        if damaged:
            hint += " Check the disk: `deployledger artifacts verify` reads everything that is stored."
        try:
            fetched = await self._download(deployment, artifact.resolved_uri)
        except InsufficientStorageError:
            raise
        except MachineLearningServiceError as error:
            if await self._take_from_image(deployment, artifact, what):
                return
            raise DeploymentError(
                deployment.name,
                f"{what} It could not be fetched again from {artifact.resolved_uri}. {error.message}",
                reason=FailureReason.ARTIFACT_DAMAGED if damaged else error.reason,
                hint=hint,
            ) from error
        if fetched.digest != artifact.digest:
            if await self._take_from_image(deployment, artifact, what):
                return
            raise DeploymentError(
                deployment.name,
                f"{what} The model at {artifact.resolved_uri} is no longer the one that was deployed: "
                f"its digest was {artifact.digest} and is now {fetched.digest}.",
                reason=FailureReason.ARTIFACT_DAMAGED if damaged else FailureReason.MODEL_CHANGED,
                hint=hint,
            )
        level = logging.WARNING if damaged else logging.INFO
        LOGGER.log(level, "%s It was fetched again from %s.", what, artifact.resolved_uri)

    async def _take_from_image(self, deployment: Deployment, artifact: Artifact, what: str) -> bool:
        """Store an artifact again from an image that the log says was built of it; return whether one has it.

        Args:
            what: why, as a sentence.

        Raises:
            InsufficientStorageError: there is no room for it.
        """
        registry, artifacts = self.clients.container_registry, self.clients.artifacts
        assert artifacts is not None  # noqa: S101  # the caller checked
        if not isinstance(registry, UnpacksImages):
            return False
        user = await asyncio.to_thread(self.log_id)
        await asyncio.to_thread(sweep, self.workspace)
        for reference in deployment.image_references(artifact):
            async with staging_folder_async(self.workspace) as folder:
                await asyncio.to_thread(check_room, folder, artifact.size_bytes)
                unpacked = folder / "model"
                try:
                    await self.calls.call(Call.PACKAGE, deployment.id, registry.unpack, reference, unpacked)
                    stored = await self.calls.call(
                        Call.STORE,
                        deployment.id,
                        artifacts.add,
                        unpacked,
                        resolved_uri=artifact.resolved_uri,
                        model_version=artifact.model_version,
                        user=user,
                        take=True,
                    )
                except InsufficientStorageError:
                    raise
                except Exception as error:  # a user's client raises what it likes
                    LOGGER.warning(
                        "%s: its model cannot be taken from %s. %s", deployment, reference, described(error)
                    )
                    continue
            if stored.digest == artifact.digest:
                LOGGER.warning("%s It was taken from its image %s.", what, reference)
                return True
        return False

    async def _download(self, deployment: Deployment, model_uri: str) -> Artifact:
        registry, artifacts = self.clients.model_registry, self.clients.artifacts
        assert registry is not None  # noqa: S101  # the caller checked; a placeholder has neither
        assert artifacts is not None  # noqa: S101
        direct = local_path(model_uri)
        user = await asyncio.to_thread(self.log_id)
        if direct is not None:
            return await self.calls.call(
                Call.STORE, deployment.id, artifacts.add, direct, resolved_uri=model_uri, user=user
            )
        resolved = ResolvedModel(model_uri)
        if isinstance(registry, ResolvesModelVersions):
            pinned = await self.calls.call(Call.FETCH, deployment.id, registry.resolve_model, model_uri)
            resolved = ResolvedModel(without_credentials(pinned.uri, is_uri=True), pinned.version)
        await asyncio.to_thread(sweep, self.workspace)
        async with staging_folder_async(self.workspace) as folder:
            try:
                downloaded = await within_limits(
                    self.calls.call(
                        Call.FETCH,
                        deployment.id,
                        registry.download_artifacts,
                        **_download_arguments(resolved.uri, str(folder)),
                    ),
                    folder,
                    self.largest_model,
                )
            except (ModelRegistryError, DeploymentError, InsufficientStorageError, DeadlineError):
                raise
            except Exception as error:  # a user's client raises what it likes
                raise ModelRegistryError(
                    f"The model registry could not provide {resolved.uri}: {described(error)}",
                    reason=FailureReason.MODEL_NOT_FOUND if isinstance(error, FileNotFoundError) else None,
                    hint="Check the registry and the URI, then retry.",
                ) from error
            if not isinstance(downloaded, str | PathLike) or not str(downloaded):
                raise ModelRegistryError(
                    f"The model registry answered {downloaded!r} for {resolved.uri}, which is not a path.",
                    hint="Have download_artifacts return the local path of what it downloaded.",
                )
            return await self.calls.call(
                Call.STORE,
                deployment.id,
                artifacts.add,
                Path(downloaded),
                resolved_uri=resolved.uri,
                model_version=resolved.version,
                user=user,
                take=_is_below(Path(downloaded), folder),
            )

    async def _package(self, deployment: Deployment) -> Record:
        revision = deployment.revision
        if revision.artifact is None:
            raise DeploymentError(deployment.name, "The artifacts of this revision are not recorded.")
        if self.clients.container_registry is None or self.clients.artifacts is None:
            image, simulated = simulated_image(revision.artifact), True
        else:
            image, simulated = await self._build(deployment, revision, revision.artifact), False
        return lambda current, by: current.packaged(revision.number, image, simulated=simulated, by=by)

    async def _build(self, deployment: Deployment, revision: Revision, artifact: Artifact) -> Image:
        """Build the image of a revision from files that are hashed on the way.

        Raises:
            DeploymentError: the files are damaged and cannot be fetched again, or the image is not the one
                that was built from the same files before (``artifact_damaged``).
        """
        registry = self.clients.container_registry
        assert registry is not None  # noqa: S101  # the caller checked
        checks = isinstance(registry, ChecksContents) and registry.checks_contents
        folder = await self._model_folder(deployment, artifact, read=not checks)
        order = PackageRequest(
            deployment_id=deployment.id,
            deployment_name=deployment.name,
            revision=revision.number,
            artifact=artifact,
            model_path=folder,
            target=revision.target,
        )
        try:
            image = await self.calls.call(Call.PACKAGE, deployment.id, registry.build_and_push, order)
        except MachineLearningServiceError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                raise
            folder = await self._model_folder(deployment, artifact, read=True)
            order = replace(order, model_path=folder)
            image = await self.calls.call(Call.PACKAGE, deployment.id, registry.build_and_push, order)
        before = deployment.earlier_image(artifact, image)
        if before is not None and before.digest != image.digest:
            raise DeploymentError(
                deployment.name,
                f"The image of deployment {deployment.name!r} that was built from {artifact.digest} is "
                f"{image.digest}, but was {before.digest} before: equal files make equal images.",
                reason=FailureReason.ARTIFACT_DAMAGED,
                hint="Retry; if it fails again, check this machine's memory and disk, and the registry.",
            )
        return image

    async def _serve(
        self, deployment: Deployment, revision: Revision, report: ReportProgress
    ) -> ProvisionedTarget:
        """Make a revision run; an image that is damaged is built again, once."""
        request, provision = _provision_request(deployment, revision), self.clients.orchestrator.provision
        try:
            return await self.calls.call(Call.PROVISION, deployment.id, provision, request, report)
        except MachineLearningServiceError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED or self.clients.container_registry is None:
                raise
            LOGGER.warning("%s: its image is built again. %s", deployment, error.message)
        await self._build(deployment, revision, request.artifact)
        return await self.calls.call(Call.PROVISION, deployment.id, provision, request, report)

    async def _provision(self, deployment: Deployment, report: ReportProgress) -> Record:
        revision = deployment.revision
        target = await self._serve(deployment, revision, report)
        simulated = not self.clients.has_orchestrator
        return lambda current, by: current.provisioned(
            revision.number, target.endpoint_url, simulated=simulated, by=by
        )

    async def _run(self, deployment: Deployment, report: ReportProgress) -> Record:
        revision = deployment.revision
        try:
            result = await self._completion(deployment, revision, report)
        except MachineLearningServiceError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                raise
            LOGGER.warning("%s: its job is started again. %s", deployment, error.message)
            await self._serve(deployment, revision, report)
            result = await self._completion(deployment, revision, report)
        simulated = not self.clients.has_orchestrator
        output_uri = result.output_uri or revision.target.output_uri or ""
        return lambda current, by: current.completed(
            revision.number, output_uri, result.rows, simulated=simulated, by=by
        )

    async def _completion(
        self, deployment: Deployment, revision: Revision, report: ReportProgress
    ) -> JobResult:
        wait_for_completion = self.clients.orchestrator.wait_for_completion
        return await self.calls.call(
            Call.RUN, deployment.id, wait_for_completion, deployment.id, revision.number, report
        )

    async def _complete(self, deployment: Deployment, artifact: Artifact) -> Path | None:
        """Return the folder with an artifact's files, or None if the store lacks some of them."""
        try:
            return await self._path_of(deployment, artifact)
        except MachineLearningServiceError as error:
            if error.reason is not FailureReason.ARTIFACT_DAMAGED:
                raise
            return None

    async def _path_of(self, deployment: Deployment, artifact: Artifact) -> Path | None:
        assert self.clients.artifacts is not None  # noqa: S101  # the caller checked
        return await self.calls.call(
            Call.STORE, deployment.id, self.clients.artifacts.path_of, artifact.digest
        )

    async def _set_aside_damaged(self, deployment: Deployment, artifact: Artifact) -> list[str]:
        assert self.clients.artifacts is not None  # noqa: S101  # the caller checked
        return await self.calls.call(
            Call.STORE, deployment.id, self.clients.artifacts.set_aside_damaged, artifact.digest
        )


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _provision_request(deployment: Deployment, revision: Revision) -> ProvisionRequest:
    if revision.image is None or revision.artifact is None:
        raise DeploymentError(deployment.name, f"The image of revision {revision.number} is not recorded.")
    return ProvisionRequest(
        deployment_id=deployment.id,
        deployment_name=deployment.name,
        revision=revision.number,
        artifact=revision.artifact,
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
