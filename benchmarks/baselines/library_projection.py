"""Events projected per second by eventsourcing's ProjectionRunner, as shipped, into one row a deployment."""

import sys
import time

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL, Identifier

from benchmarks.baselines.library_append import TARGET, environment


class Deployment(Aggregate):
    class Requested(Aggregate.Created):
        name: str
        model_uri: str
        target: dict

    class ArtifactsFetched(Aggregate.Event):
        digest: str

    class Packaged(Aggregate.Event):
        image: str

    class Provisioned(Aggregate.Event):
        endpoint_url: str

    @event(Requested)
    def __init__(self, name: str, model_uri: str, target: dict):
        self.name = name

    @event(ArtifactsFetched)
    def artifacts_fetched(self, digest: str) -> None:
        self.digest = digest

    @event(Packaged)
    def packaged(self, image: str) -> None:
        self.image = image

    @event(Provisioned)
    def provisioned(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url


class Deployments(Application):
    name = "deployments"


class StatusView(PostgresTrackingRecorder):
    def __init__(self, datastore, **kwargs):
        super().__init__(datastore, **kwargs)
        self.table = SQL("{}.deployment_status").format(Identifier(datastore.schema))
        self.sql_create_statements.append(
            SQL(
                "create table if not exists {} (id uuid primary key, name text, model_uri text,"
                " status text, endpoint_url text, updated_at timestamptz)"
            ).format(self.table)
        )

    def write(self, tracking, sql, parameters):
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(SQL(sql).format(self.table), parameters, prepare=True)


class StatusProjection(Projection[StatusView]):
    name = "status"
    update = "update {} set status = %s, endpoint_url = %s, updated_at = %s where id = %s"

    @singledispatchmethod
    def process_event(self, e, tracking):
        pass

    @process_event.register
    def _(self, e: Deployment.Requested, tracking):
        self.view.write(
            tracking,
            "insert into {} values (%s, %s, %s, 'creating', null, %s)",
            (e.originator_id, e.name, e.model_uri, e.timestamp),
        )

    @process_event.register
    def _(self, e: Deployment.ArtifactsFetched, tracking):
        self.view.write(tracking, self.update, ("creating", None, e.timestamp, e.originator_id))

    @process_event.register
    def _(self, e: Deployment.Packaged, tracking):
        self.view.write(tracking, self.update, ("creating", None, e.timestamp, e.originator_id))

    @process_event.register
    def _(self, e: Deployment.Provisioned, tracking):
        self.view.write(tracking, self.update, ("active", e.endpoint_url, e.timestamp, e.originator_id))


def deployed(index: int) -> Deployment:
    deployment = Deployment(f"name-{index}", "models:/x/1", TARGET)
    deployment.artifacts_fetched("sha256:" + "a" * 64)
    deployment.packaged("registry/x@sha256:" + "b" * 64)
    deployment.provisioned(f"http://name-{index}/")
    return deployment


def main(url: str, deployments: int) -> None:
    env = environment(url, 6)
    application = Deployments(env)
    for first in range(0, deployments, 250):
        application.save(*[deployed(i) for i in range(first, min(first + 250, deployments))])
    events = deployments * 4
    start = time.perf_counter()
    with ProjectionRunner(
        application_class=Deployments, projection_class=StatusProjection, view_class=StatusView, env=env
    ) as runner:
        runner.wait(events, timeout=600)
        print(f"library ProjectionRunner: {events / (time.perf_counter() - start):.0f} events/s")
    application.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
