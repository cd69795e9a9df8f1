"""How many deployments are accepted, and how long each takes."""

import asyncio
import logging
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from eventsourcing.application import Application

from benchmarks.baselines import library_append
from benchmarks.databases import Database
from benchmarks.filling import fill
from benchmarks.report import Report
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig


@dataclass(frozen=True)
class Measured:
    """What one measurement gave: commands a second, and the times of each in milliseconds."""

    rate: float
    p50: float
    p95: float


def measured(latencies: list[float], seconds: float) -> Measured:
    latencies.sort()
    return Measured(
        len(latencies) / seconds,
        latencies[len(latencies) // 2] * 1e3,
        latencies[int(len(latencies) * 0.95)] * 1e3,
    )


async def deploy(url: str, callers: int, each: int) -> Measured:
    """``deploy_model`` by so many callers at once: validation, name reservation, two streams, append."""
    latencies: list[float] = []
    async with MLModelDeploymentService(database_url=url, create_schema=True, run_jobs=False) as service:
        run = uuid4().hex[:8]

        async def caller(number: int) -> None:
            for index in range(each):
                start = time.perf_counter()
                await service.deploy_model(
                    DeploymentRequest(
                        model_uri="models:/x/1",
                        deployment_name=f"name-{run}-{number}-{index}",
                        deployment_target_config=DeploymentTargetConfig(**library_append.TARGET),
                    )
                )
                latencies.append(time.perf_counter() - start)

        await caller(-1)
        latencies.clear()
        start = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        return measured(latencies, time.perf_counter() - start)


def ours(url: str, callers: int, total: int) -> Measured:
    return asyncio.run(deploy(url, callers, max(1, total // callers)))


def library(database: Database, threads: int, total: int) -> Measured:
    """The library's ``save`` of one new aggregate, as shipped."""
    latencies: list[float] = []
    with Application(database.library_environment(threads)) as application:

        def save(index: int) -> None:
            start = time.perf_counter()
            application.save(library_append.Deployment(f"name-{index}", "models:/x/1", library_append.TARGET))
            latencies.append(time.perf_counter() - start)

        save(-1)
        latencies.clear()
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(save, range(total)))
        return measured(latencies, time.perf_counter() - start)


def accepted_rates(report: Report, database: Database, rounds: int) -> None:
    """Deployments accepted a second; each measurement begins with an empty log, ours as the library's."""
    baseline, at_64, at_256 = [], [], []
    threads = 16 if database.kind == "PostgreSQL" else 1
    for _ in range(rounds):
        baseline.append(library(database, threads, 1000))
        at_64.append(ours(database.fresh(), 64, 8_000))
        at_256.append(ours(database.fresh(), 256, 12_000))
    rates = [run.rate for run in baseline]
    goals = (8, 12) if database.kind == "PostgreSQL" else (4, 4)
    name = f"{database.kind}: deploy_model accepted"
    label = f"(library: save, {threads} thread{'s' if threads > 1 else ''})"
    report.add(
        f"{name}, 64 callers {label}", [run.rate for run in at_64], "/s", baseline=rates, at_least=goals[0]
    )
    report.add(
        f"{name}, 256 callers {label}", [run.rate for run in at_256], "/s", baseline=rates, at_least=goals[1]
    )
    if database.kind == "PostgreSQL":
        in_threads = [library(database, 64, 1000).p95 for _ in range(rounds)]
        p95 = [run.p95 for run in at_64]
        report.add(f"{database.kind}: p95 latency, 64 callers", p95, "ms", at_most=25)
        report.add(f"{database.kind}: p95 latency, 64 callers", p95, "ms", baseline=in_threads, at_most=1)


def latencies(report: Report, database: Database, rounds: int) -> None:
    """How long one caller waits."""
    mine, baseline = [], []
    for _ in range(rounds):
        baseline.append(library(database, 1, 500).p50)
        mine.append(ours(database.fresh(), 1, 500).p50)
    report.add(f"{database.kind}: latency p50, one caller", mine, "ms", baseline=baseline, at_most=1.3)


def heartbeat(report: Report, database: Database, rounds: int) -> None:
    """For how long the event loop of a program with 256 deploy_model calls at once is blocked, at worst."""
    context = multiprocessing.get_context("spawn")
    worst = []
    for _ in range(rounds):
        with context.Pool(1) as program:
            worst.append(program.apply(_longest_gap, (database.fresh(),)))
    report.add(
        f"{database.kind}: event loop blocked by 256 concurrent deploy_model, longest",
        worst,
        "ms",
        at_most=50,
    )


def _longest_gap(url: str) -> float:
    return asyncio.run(_beat_beside_deployments(url))


async def _beat_beside_deployments(url: str) -> float:
    logging.disable(logging.CRITICAL)
    async with MLModelDeploymentService(database_url=url, create_schema=True, run_jobs=False) as service:
        await service.list_deployments()
        gaps: list[float] = []

        async def beat() -> None:
            while True:
                start = time.perf_counter()
                await asyncio.sleep(0.001)
                gaps.append(time.perf_counter() - start - 0.001)

        beating = asyncio.create_task(beat())
        for wave in range(10):
            await asyncio.gather(
                *(
                    service.deploy_model(
                        DeploymentRequest(
                            model_uri="models:/x/1",
                            deployment_name=f"name-{wave}-{number}",
                            deployment_target_config=DeploymentTargetConfig(**library_append.TARGET),
                        )
                    )
                    for number in range(256)
                )
            )
        beating.cancel()
        return max(gaps) * 1e3


def million(report: Report, database: Database, rounds: int) -> None:
    """How fast a log of a million events grows, compared with one of ten thousand."""
    urls = {size: database.fresh() for size in (10_000, 1_000_000)}
    for size, url in urls.items():
        fill(url, size // 4)
    rates: dict[int, list[float]] = {size: [] for size in urls}
    for _ in range(rounds):
        for size, url in urls.items():
            rates[size].append(ours(url, 64, 8_000).rate)
    report.add(
        f"{database.kind}: deploy_model accepted with 1,000,000 events in the log (baseline: 10,000 events)",
        rates[1_000_000],
        "/s",
        baseline=rates[10_000],
        at_least=0.85,
    )
