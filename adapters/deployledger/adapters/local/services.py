"""Model servers behind a gateway: the ``api_service`` deployments of this machine."""

import asyncio
import contextlib
from typing import Any

from deployledger.adapters.local.extraction import Unpacking, extracted_model, set_aside_if_damaged
from deployledger.adapters.local.folders import DeploymentFolder
from deployledger.adapters.local.gateway_process import GatewayGoneError, GatewayProcess
from deployledger.adapters.local.processes import with_log
from deployledger.adapters.local.resources import threads
from deployledger.adapters.local.runtimes import Serving, runtime_of
from deployledger.domain.exceptions import (
    ConfigurationError,
    DeploymentError,
    ExternalServiceError,
    MachineLearningServiceError,
)
from deployledger.domain.ports import Observation, ProvisionRequest, ReportProgress
from deployledger.domain.reasons import FailureReason
from deployledger.gateway import GatewayError, Limits, RevisionSpec, bind
from deployledger.service.files.locks import locked_async
from deployledger.service.files.writing import read_json, write_json
from deployledger.serving import DAMAGED_STATUS, MODEL_REFUSED_STATUS, RUNTIME_MISSING_STATUS, ModelFiles

# A gateway that has not answered this long after a start's own time limit is not going to.
_MARGIN_SECONDS = 30.0
_STOP_SECONDS = 60.0


class ModelServices:
    """Starts, switches, stops and observes model servers."""

    def __init__(self, host: str, ready_timeout: float, limits: Limits, unpacking: Unpacking) -> None:
        self._host = host
        self._ready_timeout = ready_timeout
        self._limits = limits
        self._unpacking = unpacking

    async def provision(
        self, folder: DeploymentFolder, request: ProvisionRequest, report: ReportProgress
    ) -> str:
        """Start the revision, wait until it is ready, send traffic to it, and return the endpoint's URL.

        The deployment is locked while the start is prepared, not while it is awaited: meanwhile others may
        join the start, or stop it.
        """
        gateway = GatewayProcess(folder.path, self._host)
        replicas = request.target.replicas

        def show(progress: dict[str, Any]) -> None:
            report(progress["ready"], replicas, "replicas")

        async def start() -> dict[str, Any]:
            await self._begin(folder, gateway, request)
            await gateway.ask(
                "ready",
                revision=request.revision,
                within=self._ready_timeout + _MARGIN_SECONDS,
                progress=show,
            )
            return await gateway.ask("switch", revision=request.revision)

        try:
            try:
                switched = await start()
            except GatewayError as error:
                if error.exit_status != DAMAGED_STATUS:
                    raise
                async with locked_async(folder.operate_lock, create_folder=True):
                    await set_aside_if_damaged(folder.revision(request.revision), request)
                switched = await start()
        except (GatewayError, GatewayGoneError, TimeoutError) as error:
            with contextlib.suppress(FileNotFoundError):
                async with locked_async(folder.operate_lock, create_folder=False):
                    await gateway.end_if_idle()
            raise _translate(error, request, self._ready_timeout) from error
        return f"http://{_reachable(self._host)}:{switched['port']}"

    async def keep_only(self, folder: DeploymentFolder, revision: int) -> None:
        """Send traffic to the revision if it runs, and stop all others; nothing happens if nothing runs."""
        gateway = GatewayProcess(folder.path, self._host)
        try:
            await gateway.ask("stop", keep=revision, within=_STOP_SECONDS)
        except GatewayGoneError:
            return
        except TimeoutError as error:
            raise ExternalServiceError(
                "orchestrator",
                f"The gateway of deployment {folder.deployment_id} does not answer.",
                hint="Retry; deleting the deployment kills the gateway.",
            ) from error
        except GatewayError as error:
            raise ExternalServiceError(
                "orchestrator", error.message, reason=FailureReason(error.reason)
            ) from error
        await gateway.end_if_idle()

    async def end(self, folder: DeploymentFolder) -> None:
        """Stop everything and free the port."""
        await GatewayProcess(folder.path, self._host).end()

    async def observe(self, folder: DeploymentFolder) -> Observation:
        """Return what runs now."""
        gateway = GatewayProcess(folder.path, self._host)
        try:
            state = await gateway.ask("state")
        except GatewayGoneError:
            if await asyncio.to_thread(gateway.is_alive):
                detail = "The gateway process runs, but cannot be asked: its gateway.json is damaged."
            else:
                detail = "The gateway process is not running."
            return Observation(running=False, revision=None, detail=detail)
        except TimeoutError:
            return Observation(running=False, revision=None, detail="The gateway process does not answer.")
        current = state["current"]
        if current is None:
            return Observation(running=False, revision=None, detail="No revision has become ready yet.")
        serving = state["revisions"][str(current)]
        detail = f"{serving['ready']} of {serving['replicas']} replicas ready, {serving['restarts']} restarts"
        damaged = _is_damaged(serving)
        if damaged:
            detail += "; replicas that stopped cannot restart, because the model's files on disk are damaged"
        return Observation(running=serving["ready"] > 0, revision=current, detail=detail, damaged=damaged)

    async def _begin(
        self, folder: DeploymentFolder, gateway: GatewayProcess, request: ProvisionRequest
    ) -> None:
        async with locked_async(folder.operate_lock, create_folder=True):
            fixed = request.target.port is not None
            remembered = await asyncio.to_thread(_remembered_port, folder)
            port: int = request.target.port or remembered
            if fixed and not await asyncio.to_thread(gateway.is_alive):
                # Before the model is unpacked: the gateway itself would find out much later.
                await asyncio.to_thread(lambda: bind(self._host, port).close())
            revision = folder.revision(request.revision)
            if await self._cannot_start(gateway, request.revision):
                await set_aside_if_damaged(revision, request)
            model = await extracted_model(revision, request, self._unpacking)
            spec = await asyncio.to_thread(self._spec, folder, request, model, port, fixed)
            await gateway.ensure()
            begun = await gateway.ask("begin", spec=spec.to_json(), limits=self._limits.to_json())
            await asyncio.to_thread(write_json, folder.port_file, {"port": begun["port"]})

    async def _cannot_start(self, gateway: GatewayProcess, revision: int) -> bool:
        """Return whether a replica of the revision found its files damaged when it was to start again.

        Where none is left the files are suspected in any case: a gateway of an earlier version does not say.
        """
        try:
            state = await gateway.ask("state")
        except (GatewayGoneError, TimeoutError):
            return False
        status = state["revisions"].get(str(revision), {})
        return _is_damaged(status) or (status.get("state") == "ready" and not status["ready"])

    def _spec(
        self, folder: DeploymentFolder, request: ProvisionRequest, model: ModelFiles, port: int, fixed: bool
    ) -> RevisionSpec:
        runtime, path = runtime_of(model.folder, request.deployment_name)
        revision = folder.revision(request.revision)
        replicas = request.target.replicas
        serving = Serving(
            files=model,
            deployment_name=request.deployment_name,
            revision=request.revision,
            threads=threads(request.resources, replicas),
            max_body_bytes=self._limits.max_body_bytes,
        )
        return RevisionSpec(
            number=request.revision,
            command=runtime.command(path, serving),
            replicas=replicas,
            ready_path=runtime.ready_path,
            ready_timeout=self._ready_timeout,
            port=port,
            port_is_fixed=fixed,
            folder=str(revision.path),
            log=str(revision.server_log),
        )


def _is_damaged(revision: dict[str, Any]) -> bool:
    """Return what a gateway says of a revision; one of an earlier version says nothing of damage."""
    damaged: bool = revision.get("damaged", False)
    return damaged


def _remembered_port(folder: DeploymentFolder) -> int:
    """Return the port that the deployment had, or 0 for any."""
    match read_json(folder.port_file):
        case {"port": int(port)} if 0 < port < 65536:
            return port
    return 0


def _reachable(host: str) -> str:
    """Return what a client on this machine writes for the address that the gateway listens on."""
    if host in ("", "0.0.0.0"):  # noqa: S104 - compared with, not bound to
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def _translate(
    error: GatewayError | GatewayGoneError | TimeoutError, request: ProvisionRequest, ready_timeout: float
) -> MachineLearningServiceError:
    name, revision = request.deployment_name, request.revision
    if isinstance(error, GatewayGoneError):
        return ExternalServiceError(
            "orchestrator",
            f"The gateway of {name!r} ended while revision {revision} was being started.",
            reason=FailureReason.SERVER_EXITED,
            hint="It was stopped or killed from outside: retry.",
        )
    if isinstance(error, TimeoutError):
        return ExternalServiceError(
            "orchestrator",
            f"The gateway of {name!r} did not answer in {ready_timeout + _MARGIN_SECONDS:g} seconds.",
            reason=FailureReason.SERVER_NOT_READY,
            hint="Delete the deployment, which kills the gateway, and deploy again.",
        )
    match error.reason:
        case FailureReason.PORT_IN_USE:
            return ExternalServiceError(
                "orchestrator",
                f"{name!r} cannot be served: {error.message}",
                reason=FailureReason.PORT_IN_USE,
                hint="Choose another port, leave it out to get a free one, or stop what uses it.",
            )
        case FailureReason.INVALID_CONFIGURATION:
            return ConfigurationError(
                f"{name!r} cannot be served: {error.message}",
                hint="Choose a port from 1024 up, on an address of this machine.",
            )
        case FailureReason.SERVER_EXITED:
            return _exited(error, name)
        case FailureReason.SERVER_NOT_READY:
            return DeploymentError(
                name,
                with_log(error.message, error.log),
                reason=FailureReason.SERVER_NOT_READY,
                hint="The log may say why; a large model may need a longer ready_timeout.",
            )
    return ExternalServiceError("orchestrator", error.message, reason=FailureReason(error.reason))


def _exited(error: GatewayError, name: str) -> DeploymentError:
    if error.exit_status == DAMAGED_STATUS:
        return DeploymentError(
            name,
            f"The model of {name!r} was not loaded. {error.log[-1] if error.log else ''}",
            reason=FailureReason.ARTIFACT_DAMAGED,
            hint="The files were damaged again right after they were extracted: check the disk, then retry.",
        )
    if error.exit_status == MODEL_REFUSED_STATUS and error.log:
        return DeploymentError(
            name,
            f"The model of {name!r} cannot be served: {error.log[-1]}",
            reason=FailureReason.MODEL_INVALID,
            hint="Check that the model loads in its own library, and deploy one that does.",
        )
    if error.exit_status == RUNTIME_MISSING_STATUS and error.log:
        return DeploymentError(
            name,
            f"The model of {name!r} cannot be served: {error.log[-1]}",
            reason=FailureReason.RUNTIME_MISSING,
            hint="Install what the model's requirements.txt names next to deployledger, then retry.",
        )
    return DeploymentError(
        name,
        with_log(error.message, error.log),
        reason=FailureReason.SERVER_EXITED,
        hint="The log shows why; fix the cause, then retry.",
    )
