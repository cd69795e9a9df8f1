"""The past: how long a page of the fleet and the status of one deployment take, as of moments of the past."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.databases import Database
from benchmarks.projecting import CORES
from benchmarks.report import Report
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.projections.built_in import BUILT_IN

_READS = 400
_MOMENTS = {"an early": 100, "a middle": 2, "the last": 1}


def looking_back(report: Report, database: Database, rounds: int, url: str, events: int) -> None:
    """Pages and statuses of the past beside those of now, in turns, with nothing to catch up."""
    deployments = events // 4
    log = open_event_log(url)
    log.position()
    models = open_read_models(log)
    models.rebuild([projection.name for projection in BUILT_IN], workers=CORES)
    models.store.close()
    log.close()
    figures = [asyncio.run(_read(url, events)) for _ in range(rounds)]
    kind = database.kind
    for label, part in _MOMENTS.items():
        page = f"page of 100 of {deployments // part:,}, p95 (baseline: the live list)"
        what = f"{kind}: fleet as_of {label} position of {events:,}, {page}"
        report.compare(what, figures, f"page {label}", "page", at_most=3)
    by_cursor = f"{kind}: fleet as_of a middle position, a page by cursor, p95 (baseline: the live list)"
    report.compare(by_cursor, figures, "page by cursor", "page", at_most=3)
    one = f"{kind}: one deployment as_of, p95 (baseline: its live status)"
    report.compare(one, figures, "status as of", "status", at_most=2)


async def _read(url: str, events: int) -> dict[str, float]:
    times: dict[str, list[float]] = {}

    async def take(label: str, read: Callable[[], Awaitable[object]]) -> None:
        start = time.perf_counter()
        await read()
        times.setdefault(label, []).append(time.perf_counter() - start)

    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        some = [status.deployment_id for status in await service.list_deployments(offset=events // 16)]
        middle = events // 2
        cursor = (await service.list_deployments(as_of=middle)).next_cursor
        for turn in range(_READS):
            one = some[turn % len(some)]
            await take("page", service.list_deployments)
            for label, part in _MOMENTS.items():
                await take(f"page {label}", lambda part=part: service.list_deployments(as_of=events // part))
            await take("page by cursor", lambda: service.list_deployments(as_of=middle, cursor=cursor))
            await take("status", lambda one=one: service.get_deployment_status(one))
            await take("status as of", lambda one=one: service.get_deployment_status(one, as_of=middle))
    return {label: sorted(seconds)[int(len(seconds) * 0.95)] * 1e3 for label, seconds in times.items()}
