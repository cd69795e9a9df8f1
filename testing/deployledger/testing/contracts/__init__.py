"""The contract suites of the client ports, as classes of pytest tests to subclass."""

import pytest

# Before they are imported: their assertions then show values, as those of an application's own tests do.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("container_registry", "model_registry", "orchestrator"))
)
