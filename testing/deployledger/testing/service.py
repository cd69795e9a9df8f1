"""A service that leaves nothing behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deployledger.adapters.settings import ExplicitSettings
from deployledger.app import MLModelDeploymentService
from deployledger.domain import (
    ContainerRegistryClientInterface,
    ModelRegistryClientInterface,
    OrchestratorClientInterface,
)
from deployledger.testing.in_memory_clients import (
    InMemoryContainerRegistry,
    InMemoryModelRegistry,
    InMemoryOrchestrator,
)


@asynccontextmanager
async def in_memory_service(
    *,
    model_registry: ModelRegistryClientInterface | None = None,
    container_registry: ContainerRegistryClientInterface | None = None,
    orchestrator: OrchestratorClientInterface | None = None,
    **options: Any,
) -> AsyncIterator[MLModelDeploymentService]:
    """Open a service whose events are in memory and whose files are in a folder that is removed on closing.

    Variables ``DEPLOYLEDGER_…`` of the environment, such as those of a production system, have no effect.

    Args:
        model_registry: a client to test, or one in memory; so are the other two.
        options: further arguments of `deployledger.app.MLModelDeploymentService`.
    """
    with TemporaryDirectory(prefix="deployledger-") as folder:
        settings = ExplicitSettings(home=Path(options.pop("home", None) or folder))
        async with MLModelDeploymentService(
            model_registry or InMemoryModelRegistry(),
            container_registry or InMemoryContainerRegistry(),
            orchestrator or InMemoryOrchestrator(),
            **{"database_url": "sqlite://", "actor": "test", "settings": settings, **options},
        ) as service:
            yield service
