"""Services to test, and helpers that all tests of the service share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService

OpenService = Callable[..., MLModelDeploymentService]


@pytest.fixture
async def open_service(database_url: str) -> AsyncIterator[OpenService]:
    """Open a service on the test's database, on each kind; all are closed at the end."""
    opened: list[MLModelDeploymentService] = []

    def open_one(*clients: Any, **options: Any) -> MLModelDeploymentService:
        opened.append(MLModelDeploymentService(*clients, database_url=database_url, **options))
        return opened[-1]

    yield open_one
    await asyncio.gather(*(service.close() for service in opened))


@pytest.fixture
async def service(open_service: OpenService) -> MLModelDeploymentService:
    """A service in placeholder mode."""
    return open_service(actor="ann")
