"""The shape of a projection's rows, which may not change without a new version."""

import hashlib
import json
from functools import cache
from typing import Any

from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.projection import Projection


@cache
def shape_of(projection: Projection[Any]) -> str:
    """Return a digest of the fields of the rows, and of which of them are columns."""
    fields = {name: repr(field.annotation) for name, field in projection.row_type.model_fields.items()}
    columns = {name: kind.__name__ for name, kind in projection.column_types.items()}
    kept = ["temporal"] if projection.temporal else []
    told = json.dumps([fields, columns, projection.counted, projection.is_by_stream, *kept], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def check_shape(projection: Projection[Any], found: str, shape: str) -> None:
    """Check that stored rows have the shape that the projection's rows have.

    Raises:
        ConfigurationError: if they have not.
    """
    if found != shape:
        raise ConfigurationError(
            f"The stored rows of projection {projection.label} have other fields than its row type.",
            hint=f"Give the projection a new version ({projection.version + 1}): it is then rebuilt.",
        )
