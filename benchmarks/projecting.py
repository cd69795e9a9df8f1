"""Read models: how fast they are rebuilt, followed, verified and read."""

import asyncio
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from uuid import UUID

import psycopg
from eventsourcing.projection import ProjectionRunner
from psycopg.rows import tuple_row

from benchmarks.baselines import library_projection
from benchmarks.databases import Database
from benchmarks.filling import fill
from benchmarks.report import Report
from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.event_log.postgres.log import PostgresEventLog
from deployledger.adapters.read_models import open_read_models
from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.read_models import ReadModels
from deployledger.projections.status import DEPLOYMENT_STATUS

NAMES = [DEPLOYMENT_STATUS.name, DEPLOYMENT_LIST.name]
CORES = os.cpu_count() or 1
_FOLLOWED = 100_000
_LIBRARY_DEPLOYMENTS = 1_000
_READS = 400

# The same facts, regrouped by the server alone: one row a deployment, and the rows that lists select by.
_REGROUP = """
    CREATE TABLE regrouped AS
    SELECT originator_id AS key, min(position) AS first_position, max(position) AS position,
           max(originator_version) AS version,
           max(fields ->> 'name') AS name, max(fields ->> 'model_uri') AS model_uri,
           max(fields ->> 'orchestrator') AS orchestrator,
           max((fields -> 'target')::text) AS target, max((fields -> 'tags')::text) AS tags,
           max((fields -> 'artifact')::text) AS artifact, max((fields -> 'image')::text) AS image,
           max(fields ->> 'endpoint_url') AS endpoint_url,
           min(fields ->> 'timestamp') AS created_at, max(fields ->> 'timestamp') AS updated_at,
           (array_agg(topic ORDER BY originator_version DESC))[1] AS last_topic
    FROM deployledger.events, LATERAL (SELECT convert_from(state, 'UTF8')::json AS fields) AS decoded
    GROUP BY originator_id;
    ALTER TABLE regrouped ADD PRIMARY KEY (key);
    CREATE TABLE regrouped_list AS
    SELECT key, first_position, name, model_uri, tags, created_at, updated_at, last_topic FROM regrouped;
    ALTER TABLE regrouped_list ADD PRIMARY KEY (key);
    CREATE INDEX ON regrouped_list (first_position);
    CREATE INDEX ON regrouped_list (name, first_position);
    CREATE INDEX ON regrouped_list (last_topic, first_position);
    CREATE INDEX ON regrouped_list (updated_at, first_position);
    CREATE INDEX ON regrouped_list (model_uri, first_position);
"""


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def library_rate(database: Database) -> float:
    """Events a second of the library's ``ProjectionRunner``, as shipped, into one row a deployment."""
    environment = database.library_environment(6)
    application = library_projection.Deployments(environment)
    for first in range(0, _LIBRARY_DEPLOYMENTS, 250):
        application.save(*[library_projection.deployed(number) for number in range(first, first + 250)])
    events = _LIBRARY_DEPLOYMENTS * 4

    def project() -> None:
        with ProjectionRunner(
            application_class=library_projection.Deployments,
            projection_class=library_projection.StatusProjection,
            view_class=library_projection.StatusView,
            env=environment,
        ) as runner:
            runner.wait(events, timeout=600)

    seconds = _timed(project)
    application.close()
    return events / seconds


def _opened(url: str) -> tuple[DatabaseEventLog, ReadModels]:
    log = open_event_log(url, create=True)
    log.position()
    return log, open_read_models(log)


def _closed(log: DatabaseEventLog, models: ReadModels) -> None:
    models.store.close()
    log.close()


def regroup_rate(url: str, events: int) -> float:
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("DROP TABLE IF EXISTS regrouped, regrouped_list")
        return events / _timed(lambda: session.execute(_REGROUP))


def rebuilding(report: Report, database: Database, rounds: int, events: int) -> None:
    """Status and list together from a log of so many events; ours and the baselines take turns."""
    url = database.fresh()
    fill(url, events // 4)
    log, models = _opened(url)
    models.rebuild(NAMES)
    one, all_cores, verified, regrouped, library = [], [], [], [], []
    for _ in range(rounds):
        if database.kind == "PostgreSQL":
            library.append(library_rate(database))
            regrouped.append(regroup_rate(url, events))
        one.append(events / _timed(lambda: models.rebuild(NAMES)))
        all_cores.append(events / _timed(lambda: models.rebuild(NAMES, workers=CORES)))
        verified.append(events / _timed(lambda: models.verify(NAMES)))
    assert not any(verified.differences for verified in models.verify(NAMES))
    _closed(log, models)
    name = f"{database.kind}: rebuild of status and list from {events:,} events"
    runner = "(library: ProjectionRunner)"
    goals: dict[str, float | None] = dict.fromkeys(("one", "all", "sql"))
    if database.kind == "PostgreSQL":
        goals = {"one": 100, "all": 160, "sql": 0.8}
    report.add(f"{name}, 1 worker {runner}", one, "ev/s", baseline=library, at_least=goals["one"])
    report.add(
        f"{name}, {CORES} workers {runner}", all_cores, "ev/s", baseline=library, at_least=goals["all"]
    )
    if regrouped:
        report.add(
            f"{name}, {CORES} workers (baseline: a regroup in SQL)",
            all_cores,
            "ev/s",
            baseline=regrouped,
            at_least=0.8,
        )
    report.add(
        f"{database.kind}: verify of both, 1 worker (baseline: our rebuild, 1 worker)",
        verified,
        "ev/s",
        baseline=one,
        at_least=0.7,
    )
    memory = _peak_memory(url)
    report.add(
        f"{database.kind}: rebuild, peak memory of a worker, {events:,} events", [memory], "MB", at_most=300
    )
    small = database.fresh()
    fill(small, events // 16)
    report.add(
        f"{database.kind}: rebuild, peak memory (baseline: a log of a quarter of the size)",
        [memory],
        "MB",
        baseline=[_peak_memory(small)],
        at_most=1.1,
    )


def _peak_memory(url: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as program:
        return program.apply(_rebuild_and_weigh, (url,))


def _rebuild_and_weigh(url: str) -> float:
    log, models = _opened(url)
    models.rebuild(NAMES)
    _closed(log, models)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def following(report: Report, database: Database, rounds: int) -> None:
    """Events a second that a follower applies, from behind, to the tables that are read."""
    ours, library = [], []
    for _ in range(rounds):
        if database.kind == "PostgreSQL":
            library.append(library_rate(database))
        url = database.fresh()
        log, models = _opened(url)
        models.catch_up(DEPLOYMENT_STATUS)  # the tables are there, and empty
        fill(url, _FOLLOWED // 4)
        ours.append(_FOLLOWED / _timed(lambda models=models: models.catch_up(DEPLOYMENT_STATUS)))
        _closed(log, models)
    report.add(
        f"{database.kind}: following (library: ProjectionRunner)",
        ours,
        "ev/s",
        baseline=library,
        at_least=30 if library else None,
    )


def reading(report: Report, database: Database, rounds: int, deployments: int) -> None:
    """How long a status and a page take, with nothing to catch up, beside bare SELECTs of the same rows."""
    url = database.fresh()
    fill(url, deployments, events_each=1)
    log, models = _opened(url)
    models.rebuild(NAMES, workers=CORES)
    _closed(log, models)
    figures = [asyncio.run(_read(url, deployments)) for _ in range(rounds)]
    kind = database.kind
    bare = "(baseline: bare SELECT through the same pool)"
    has_pool = kind == "PostgreSQL"
    report.compare(
        f"{kind}: get_deployment_status, p50 {bare if has_pool else ''}",
        figures,
        "status",
        "bare status" if has_pool else None,
        at_most=2,
    )
    report.compare(
        f"{kind}: page of 100 of {deployments:,}, offset 0, p95 {bare if has_pool else ''}",
        figures,
        "first page",
        "bare page" if has_pool else None,
        at_most=2,
    )
    far = f"{kind}: page of 100, offset {deployments * 9 // 10:,}, p95 (baseline: offset 0)"
    report.compare(far, figures, "far page", "first page", at_most=1.5)


async def _read(url: str, deployments: int) -> dict[str, float]:
    milliseconds: dict[str, float] = {}
    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        page = await service.list_deployments(offset=deployments // 2)
        some = [status.deployment_id for status in page]
        far = deployments * 9 // 10
        times: dict[str, list[float]] = {}

        async def take(label: str, turn: int, read: Callable[[int], object]) -> None:
            start = time.perf_counter()
            answer = read(turn)
            if asyncio.iscoroutine(answer):
                await answer
            times.setdefault(label, []).append(time.perf_counter() - start)

        log = service.event_log
        bare = _BareSelects(log, some) if isinstance(log, PostgresEventLog) else None
        for turn in range(_READS):
            await take("status", turn, lambda turn: service.get_deployment_status(some[turn % len(some)]))
            await take("first page", turn, lambda _: service.list_deployments())
            await take("far page", turn, lambda _: service.list_deployments(offset=far))
            if bare is not None:
                await take("bare status", turn, bare.status)
                await take("bare page", turn, bare.page)
    for label, seconds in times.items():
        seconds.sort()
        quantile = 0.5 if "status" in label else 0.95
        milliseconds[label] = seconds[int(len(seconds) * quantile)] * 1e3
    return milliseconds


class _BareSelects:
    """The same rows, by nothing but a pool and a prepared statement."""

    def __init__(self, log: PostgresEventLog, some: list[UUID]) -> None:
        self._log = log
        self._some = some
        with log.database.pooled() as session, session.cursor(row_factory=tuple_row) as cursor:
            generations = dict(
                cursor.execute("SELECT name, generation FROM deployledger.read_models").fetchall()
            )
        status = f'deployledger."deployment_status_v4_{generations["deployment_status"]}"'
        self._by_key = f"SELECT state FROM {status} WHERE key = %s"
        self._page = (
            f'SELECT s.state FROM deployledger."deployment_list_v1_{generations["deployment_list"]}" l '
            f"JOIN {status} s USING (key) WHERE NOT l.c_deleted AND l.first_position > 0 "
            "ORDER BY l.first_position LIMIT 100"
        )

    def _select(self, statement: str, values: tuple[str, ...]) -> None:
        with self._log.database.pooled() as session, session.cursor(binary=True) as cursor:
            cursor.execute(statement, values, prepare=True).fetchall()

    def status(self, turn: int) -> None:
        self._select(self._by_key, (str(self._some[turn % len(self._some)]),))

    def page(self, turn: int) -> None:
        self._select(self._page, ())
