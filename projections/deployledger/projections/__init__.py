"""Queries: projections of the events, each of which keeps a read model."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "projection": ("Consistency", "Projection"),
        "read_model_status": ("ReadModelStatus",),
        "read_models": ("ReadModels",),
        "rebuilding": ("Rebuilt",),
        "rows": ("ParkedEvent", "StoredRow"),
        "selection": ("Condition", "Found", "Selected", "Selection"),
        "verifying": ("Verified",),
    },
)
