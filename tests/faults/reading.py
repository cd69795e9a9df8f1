"""What the processes do that read, follow and rebuild read models, and may be killed at any time."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.event_records import Mark
from deployledger.projections.rebuilding import Rebuilder
from tests.faults.workers import PROCESSES, Signal
from tests.projections.examples import COUNTS

PROCESSES.set_forkserver_preload([__name__, "tests.faults.workers"])


def follow(url: str) -> None:
    """Follow until killed."""
    log = open_event_log(url, create=True)
    models = open_read_models(log, projections=[COUNTS])
    models.follow(threading.Event())


def rebuild(url: str, workers: int, pace: float, begun: Path) -> None:
    """Rebuild again and again until killed, slowly enough to be killed anywhere; say when it has begun."""
    log = open_event_log(url, create=True)
    models = open_read_models(log, projections=[COUNTS])

    def progress(done: int, total: int) -> None:
        begun.write_text(f"{done} {total}")
        time.sleep(pace)

    catch_up = Rebuilder._catch_up

    def slow_catch_up(*arguments: Any) -> Mark:
        begun.write_text("catching up")
        time.sleep(pace)
        return catch_up(*arguments)

    Rebuilder._catch_up = slow_catch_up  # type: ignore[method-assign]
    while True:
        models.rebuild(list(models.projections), workers=workers, progress=progress)


def answer(url: str, questions: Any) -> None:
    """Answer by what this process reads: for each id, its version, how many are listed, and the newest."""

    async def serve() -> None:
        async with MLModelDeploymentService(database_url=url, run_jobs=False, resume=False) as service:
            await service.list_deployments()
            questions.send(os.getpid())
            while (asked := await asyncio.to_thread(questions.recv)) is not None:
                if asked[1] == "status":
                    status = await service.get_deployment_status(asked[0])
                    questions.send((status.version, status.deployment_name))
                else:
                    page = await service.list_deployments(1, descending=True)
                    questions.send((page.total, page[0].deployment_id, page[0].version))

    asyncio.run(serve())


def append_until(url: str, stop: Signal) -> None:
    """Append events at about 200 a second until told to stop."""
    from tests.faults.audit import new_command

    log = open_event_log(url, create=True, patience=60)
    while not stop.is_set():
        log.append(new_command(1 + os.urandom(1)[0] % 4))
        stop.wait(0.01)
    log.close()
