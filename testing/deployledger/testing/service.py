"""A service that leaves nothing behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

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

    Args:
        model_registry: a client to test, or one in memory; so are the other two.
        options: further arguments of `deployledger.app.MLModelDeploymentService`.
    """
    with TemporaryDirectory(prefix="deployledger-") as home:
        async with MLModelDeploymentService(
            model_registry or InMemoryModelRegistry(),
            container_registry or InMemoryContainerRegistry(),
            orchestrator or InMemoryOrchestrator(),
            **{"database_url": "sqlite://", "home": home, "actor": "test", **options},
        ) as service:
            yield service
