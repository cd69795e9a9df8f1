"""Batch inference jobs: each is a process that scores one input and exits."""

import asyncio
import contextlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from deployledger.adapters.local.extraction import (
    Unpacking,
    extracted_model,
    set_aside_if_damaged,
)
from deployledger.adapters.local.folders import DeploymentFolder, RevisionFolder
from deployledger.adapters.local.locations import batch_file, batch_files
from deployledger.adapters.local.processes import (
    kill_group,
    last_lines,
    python_command,
    start_detached,
    with_log,
)
from deployledger.adapters.local.resources import threads
from deployledger.adapters.local.runtimes import runtime_of
from deployledger.domain.exceptions import DeploymentError, ExternalServiceError
from deployledger.domain.ports import JobResult, Observation, ProvisionRequest, ReportProgress
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import BatchOptions
from deployledger.service.files.locks import is_held, lock_despite_probes, locked_async
from deployledger.service.files.staging import remove
from deployledger.service.files.stopping import stoppable
from deployledger.service.files.writing import make_way, read_json, write_json
from deployledger.serving import ModelFiles

_POLL_SECONDS = 0.1
_KILL_SECONDS = 10.0
_MODULES = ("fsspec", "msgspec", "pyarrow")


class BatchJobs:
    """Starts, awaits, stops and observes batch inference jobs."""

    def __init__(self, unpacking: Unpacking) -> None:
        self._unpacking = unpacking

    async def provision(self, folder: DeploymentFolder, request: ProvisionRequest) -> None:
        """Start the job, unless it runs or is complete.

        Raises:
            ConfigurationError: input or output is missing, or cannot be used.
            DeploymentError: no runtime of this machine scores such a model.
        """
        source, output = batch_files(request.target, request.deployment_name)
        revision = folder.revision(request.revision)
        async with locked_async(folder.operate_lock, create_folder=True):
            status = await asyncio.to_thread(_status, revision)
            if status.get("state") == "completed":
                return
            if status.get("state") == "failed":
                # It holds its lock until its process has ended, and would be taken for a job that runs.
                await self.stop(folder, request.revision)
            if status.get("reason") == FailureReason.ARTIFACT_DAMAGED:
                await set_aside_if_damaged(revision, request)
            model = await extracted_model(revision, request, self._unpacking)
            # A job that is started after this one gave the lock up would be nobody's to stop.
            await stoppable(_start, revision, request, model, source, output)

    async def wait(self, folder: DeploymentFolder, revision_number: int, report: ReportProgress) -> JobResult:
        """Wait until the job is complete, whichever process started it.

        Raises:
            DeploymentError: the job failed, died, or was stopped.
        """
        revision = folder.revision(revision_number)
        reported: tuple[int, int | None] | None = None
        while True:
            alive = await asyncio.to_thread(is_held, revision.job_lock)
            status = await asyncio.to_thread(_status, revision)  # read after: a job that ends writes first
            so_far = (status.get("done", 0), status.get("total"))
            if status and so_far != reported:
                report(*so_far, "rows")
                reported = so_far
            match status:
                case {"state": "completed", "rows": int(rows), "output_uri": str(output_uri)}:
                    return JobResult(output_uri=output_uri, rows=rows)
                case {"state": "failed", "reason": str(reason), "message": str(message)}:
                    raise DeploymentError(
                        str(folder.deployment_id),
                        message,
                        reason=FailureReason(reason),
                        hint=str(status.get("hint", "")),
                    )
            if not alive:
                raise await asyncio.to_thread(_died, folder, revision)
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, folder: DeploymentFolder, revision_number: int) -> None:
        """Kill the job if it runs, and remove what it had written of its output.

        A job that something else killed continues where it stopped when it is retried: its output is kept
        until then, or until `forget`.

        Raises:
            ExternalServiceError: it does not end.
        """
        revision = folder.revision(revision_number)
        was_killed = not await asyncio.to_thread(is_held, revision.job_lock)
        deadline = asyncio.get_running_loop().time() + _KILL_SECONDS
        while await asyncio.to_thread(is_held, revision.job_lock):
            status = await asyncio.to_thread(_status, revision)
            match status:
                case {"pid": int(pid)} if pid > 1:  # a job that has just been started has none yet
                    kill_group(pid)
            if asyncio.get_running_loop().time() > deadline:
                raise ExternalServiceError(
                    "orchestrator",
                    f"The batch job of deployment {folder.deployment_id} does not end.",
                    hint=f"Kill the process that holds {revision.job_lock}, and retry.",
                )
            await asyncio.sleep(_POLL_SECONDS / 5)
        status = await asyncio.to_thread(_status, revision)
        if "partial" in status:
            await asyncio.to_thread(write_json, folder.unfinished, {"partial": status["partial"]})
            if not (was_killed and status.get("state") == "running"):
                await self.forget(folder)

    async def forget(self, folder: DeploymentFolder) -> None:
        """Remove the unfinished output of a job that was killed, if there is any."""
        partial = (await asyncio.to_thread(read_json, folder.unfinished) or {}).get("partial")
        if partial is not None:
            with contextlib.suppress(OSError):  # a folder that became read-only holds nothing up
                await asyncio.to_thread(remove, Path(partial))
            await asyncio.to_thread(folder.unfinished.unlink, missing_ok=True)

    async def observe(self, folder: DeploymentFolder, revision_number: int) -> Observation:
        """Return whether the job runs, and how far it is."""
        revision = folder.revision(revision_number)
        alive = await asyncio.to_thread(is_held, revision.job_lock)
        status = await asyncio.to_thread(_status, revision)
        running = alive and status.get("state", "running") == "running"
        detail = str(status.get("state", "starting" if running else "not running"))
        if "done" in status:
            detail += f", {_progress(status)}"
        return Observation(running=running, revision=revision_number if running else None, detail=detail)


def _progress(status: dict[str, Any]) -> str:
    match status:
        case {"total": int(total)}:
            rejected = f", {status['rejected']:,} skipped" if status.get("rejected") else ""
            return f"{status['done']:,} of {total:,} rows{rejected}"
        case {"part": float(part), "rate": float(rate), "seconds_left": float(seconds)}:
            return f"{status['done']:,} rows, {part:.0%}, {rate:,.0f} rows/s, {seconds:.0f} s left"
    return f"{status['done']:,} rows"


def _start(
    revision: RevisionFolder, request: ProvisionRequest, model: ModelFiles, source: str, output: str
) -> None:
    _, path = runtime_of(model.folder, request.deployment_name)
    missing = [module for module in _MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise DeploymentError(
            request.deployment_name,
            f"{request.deployment_name!r} needs modules that are not installed: {', '.join(missing)}.",
            reason=FailureReason.RUNTIME_MISSING,
            hint="Run `pip install 'deployledger[batch]'`.",
        )
    options = request.target.batch or BatchOptions()
    if options.errors_uri is not None:
        errors_uri = batch_file(options.errors_uri, "errors_uri")
        options = options.model_copy(update={"errors_uri": errors_uri})
    lock = lock_despite_probes(revision.job_lock)
    if lock is None:
        return  # it runs
    try:
        make_way(revision.job_status)
        command = python_command(
            "deployledger.serving.batch",
            *("--model", str(path)),
            *("--input", source),
            *("--output", output),
            *("--output-uri", str(request.target.output_uri)),
            *("--status", str(revision.job_status)),
            *("--threads", str(threads(request.resources, 1))),
            *("--options", options.model_dump_json()),
            *model.arguments(),
        )
        start_detached(command, log=revision.job_log, cwd=revision.path, keep_open=lock)
    finally:
        os.close(lock)


def _status(revision: RevisionFolder) -> dict[str, Any]:
    return read_json(revision.job_status) or {}


def _died(folder: DeploymentFolder, revision: RevisionFolder) -> DeploymentError:
    return DeploymentError(
        str(folder.deployment_id),
        with_log("The batch job ended without a result.", last_lines(revision.job_log)),
        reason=FailureReason.BATCH_FAILED,
        hint="It was killed, or ran out of memory: retry.",
    )
