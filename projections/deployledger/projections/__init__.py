"""What can be asked: projections of the events, of which each keeps a read model."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "projection": ("Consistency", "Projection"),
        "read_models": ("ReadModels",),
        "selection": ("Condition", "Selection"),
    },
)
