"""Read models on SQLite and PostgreSQL."""

from deployledger.adapters.read_models.opening import open_read_models
from deployledger.adapters.read_models.references import load_projections

__all__ = ["load_projections", "open_read_models"]
