"""A projection of one's own: how many deployments of each model were requested on each day.

Name it in ``DEPLOYLEDGER_PROJECTIONS`` as ``deployments_by_model:DEPLOYMENTS_BY_MODEL``, with this folder in
``PYTHONPATH``; see docs/projections.md.
"""

from pydantic import BaseModel

from deployledger.domain import Requested
from deployledger.projections import Projection


class ModelOnDay(BaseModel):
    """One row: a model, a day (UTC), and how many deployments of it were requested then."""

    model_uri: str
    day: str
    deployments: int


def key(event: Requested) -> str:
    """Return which row the event belongs to."""
    return f"{event.timestamp:%Y-%m-%d} {event.model_uri}"


def count(row: ModelOnDay | None, event: Requested) -> ModelOnDay:
    """Return the row as it is after the event."""
    before = row.deployments if row else 0
    return ModelOnDay(model_uri=event.model_uri, day=f"{event.timestamp:%Y-%m-%d}", deployments=before + 1)


DEPLOYMENTS_BY_MODEL = Projection(
    name="deployments_by_model",
    version=1,
    row_type=ModelOnDay,
    apply=count,
    topics=(Requested.TOPIC,),
    key=key,
    columns=("model_uri", "day"),
)
