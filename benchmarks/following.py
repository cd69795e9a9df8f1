"""How soon another process that follows sees what was appended."""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from uuid import uuid4

from benchmarks.baselines import library_append
from benchmarks.databases import Database
from benchmarks.report import Report
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig
from deployledger.adapters.event_log import open_event_log

_APPENDS = 100


def _follow(url: str, answers: Connection) -> None:
    """Say when each batch was seen, on the clock that all processes of a machine share."""
    log = open_event_log(url)
    with log.follow(log.position()) as follower:
        answers.send("following")
        seen = 0
        while seen < _APPENDS:
            batch = follower.next_batch(10)
            if batch is None:
                break
            now = time.monotonic()
            deployments = [event for event in batch.events if event.event.TOPIC == "deployment.requested"]
            seen += len(deployments)
            answers.send([(str(event.event.originator_id), now) for event in deployments])
    log.close()


async def _append(url: str) -> dict[str, float]:
    appended: dict[str, float] = {}
    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        for _ in range(_APPENDS):
            await asyncio.sleep(0.02)
            answer = await service.deploy_model(
                DeploymentRequest(
                    model_uri="models:/x/1",
                    deployment_name=f"name-{uuid4().hex}",
                    deployment_target_config=DeploymentTargetConfig(**library_append.TARGET),
                )
            )
            appended[str(answer.deployment_id)] = time.monotonic()
    return appended


def visibility(report: Report, database: Database, rounds: int) -> None:
    """From the acknowledgement of an append until a follower in another process has it, p95."""
    p95 = []
    for _ in range(rounds):
        url = database.fresh()
        open_event_log(url, create=True).create_schema()
        context = multiprocessing.get_context("spawn")
        answers, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_follow, args=(url, theirs))
        process.start()
        answers.recv()
        appended = asyncio.run(_append(url))
        seen: dict[str, float] = {}
        while len(seen) < _APPENDS and answers.poll(10):
            seen.update(answers.recv())
        process.join()
        delays = sorted(max(0.0, seen[key] - appended[key]) for key in appended)
        p95.append(delays[int(len(delays) * 0.95)] * 1e3)
    report.add(
        f"{database.kind}: append to visible in a follower in another process, p95",
        p95,
        "ms",
        at_most=10 if database.kind == "PostgreSQL" else 25,
    )
