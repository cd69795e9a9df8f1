"""What every orchestrator client must do."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from deployledger.domain import (
    ChecksTargets,
    ContainerRegistryClientInterface,
    DeploymentTargetConfig,
    OrchestratorClientInterface,
    ProvisionedTarget,
    ProvisionRequest,
)
from deployledger.testing.contracts.requests import (
    API_SERVICE,
    NAME,
    deleted,
    deployed,
    example_model,
    package_request,
)
from deployledger.testing.in_memory_clients import InMemoryContainerRegistry
from deployledger.testing.service import in_memory_service

Order = Callable[[int], ProvisionRequest]
"""Gives the order to provision a revision (1, 2, …) of the test's deployment."""


class OrchestratorContract:
    """Tests of an orchestrator client; subclass it as ``Test…``, and define the fixture ``client``.

    A client that runs models for real also defines ``model`` and ``container_registry``.
    """

    @pytest.fixture
    def client(self) -> OrchestratorClientInterface:
        """Return the client to test."""
        raise NotImplementedError("Define a fixture `client` that returns the orchestrator client.")

    @pytest.fixture
    def container_registry(self) -> ContainerRegistryClientInterface:
        """Return the client that builds the images that the orchestrator can run; by default, in memory."""
        return InMemoryContainerRegistry()

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """Return the folder of a model that the orchestrator can run; by default, of two files."""
        return example_model(tmp_path / "model")

    @pytest.fixture
    def target(self) -> DeploymentTargetConfig:
        """Return a target that the orchestrator can provision; by default, an API service."""
        return API_SERVICE

    @pytest.fixture
    def batch_target(self) -> DeploymentTargetConfig | None:
        """Return the target of a batch job that the orchestrator can run; by default None: it runs none."""
        return None

    @pytest.fixture
    def order(
        self,
        client: OrchestratorClientInterface,
        container_registry: ContainerRegistryClientInterface,
        model: Path,
        target: DeploymentTargetConfig,
        tmp_path: Path,
    ) -> Iterator[Order]:
        """Give orders for one deployment, and prune it after the test."""
        package = asyncio.run(package_request(model, tmp_path / "store", deployment_id=uuid4()))
        image = asyncio.run(container_registry.build_and_push(package))
        deployment_id = package.deployment_id
        yield lambda revision: ProvisionRequest(
            deployment_id, NAME, revision, package.artifact, image, target
        )
        asyncio.run(client.prune(deployment_id, None))

    def test_it_has_a_name_and_target_types(
        self, client: OrchestratorClientInterface, target: DeploymentTargetConfig
    ) -> None:
        """The name is stored with every deployment; a request for another type is refused at once."""
        assert client.name
        assert client.name == client.name.strip()
        assert target.type in client.target_types

    def test_its_targets_are_accepted(
        self, client: OrchestratorClientInterface, target: DeploymentTargetConfig
    ) -> None:
        """``check_target`` accepts what can be provisioned."""
        if not isinstance(client, ChecksTargets):
            pytest.skip("the client does not check targets")
        client.check_target(NAME, target, None)

    def test_nothing_runs_of_an_unknown_deployment(self, client: OrchestratorClientInterface) -> None:
        """It is observed as not running, and pruning it does nothing."""

        async def look() -> None:
            unknown = uuid4()
            await client.prune(unknown, None)
            observation = await client.observe(unknown)
            assert (observation.running, observation.revision) == (False, None)
            assert unknown not in await client.provisioned()

        asyncio.run(look())

    def test_a_provisioned_revision_runs(self, client: OrchestratorClientInterface, order: Order) -> None:
        """It has an endpoint, is observed and has logs, also seen from another event loop."""
        deployment_id = order(1).deployment_id
        assert _provision(client, order(1)).endpoint_url or order(1).target.is_batch_job
        assert asyncio.run(client.provisioned())[deployment_id] == {1}
        observation = asyncio.run(client.observe(deployment_id))
        assert (observation.running, observation.revision) == (True, 1)

        async def lines() -> list[str]:
            return [line async for line in client.logs(deployment_id, follow=False)]

        assert not [line for line in asyncio.run(lines()) if "\n" in line]

    def test_provisioning_again_changes_nothing(
        self, client: OrchestratorClientInterface, order: Order
    ) -> None:
        """A repeated call, after a crash, returns the same endpoint."""
        target = _provision(client, order(1))
        assert _provision(client, order(1)) == target
        assert asyncio.run(client.provisioned())[order(1).deployment_id] == {1}

    def test_an_update_replaces_the_revision_when_it_is_pruned(
        self, client: OrchestratorClientInterface, order: Order
    ) -> None:
        """Both revisions run, the newer is observed, and pruning leaves that one, then none."""
        deployment_id = order(1).deployment_id
        _provision(client, order(1))
        _provision(client, order(2))
        assert asyncio.run(client.provisioned())[deployment_id] == {1, 2}
        observation = asyncio.run(client.observe(deployment_id))
        assert (observation.running, observation.revision) == (True, 2)
        for _ in range(2):
            asyncio.run(client.prune(deployment_id, 2))
            assert asyncio.run(client.provisioned())[deployment_id] == {2}
        observation = asyncio.run(client.observe(deployment_id))
        assert (observation.running, observation.revision) == (True, 2)
        asyncio.run(client.prune(deployment_id, None))
        assert deployment_id not in asyncio.run(client.provisioned())
        assert not asyncio.run(client.observe(deployment_id)).running

    def test_a_batch_job_completes(
        self, client: OrchestratorClientInterface, order: Order, batch_target: DeploymentTargetConfig | None
    ) -> None:
        """It has no endpoint, and a repeated wait gives the same result."""
        if batch_target is None:
            assert "batch_inference_job" not in client.target_types, "Define the fixture `batch_target`."
            pytest.skip("the client runs no batch jobs")
        job = replace(order(1), target=batch_target)
        assert _provision(client, job).endpoint_url is None
        result = asyncio.run(client.wait_for_completion(job.deployment_id, 1, _report))
        assert result.output_uri
        assert asyncio.run(client.wait_for_completion(job.deployment_id, 1, _report)) == result

    def test_a_service_deploys_updates_and_deletes_with_it(
        self,
        client: OrchestratorClientInterface,
        container_registry: ContainerRegistryClientInterface,
        model: Path,
        target: DeploymentTargetConfig,
    ) -> None:
        """After a deployment, an update and a deletion nothing is left."""

        async def live_and_die() -> None:
            async with in_memory_service(
                container_registry=container_registry, orchestrator=client
            ) as service:
                status = await deployed(service, model.as_uri(), target)
                try:
                    assert (status.status, status.revision) == ("active", 1), status.message
                    status = await deployed(service, model.as_uri(), target)
                    assert (status.status, status.revision) == ("active", 2), status.message
                finally:
                    status = await deleted(service, status.deployment_id)
                assert status.status == "inactive", status.message
                assert status.deployment_id not in await client.provisioned()

        asyncio.run(live_and_die())


def _provision(client: OrchestratorClientInterface, order: ProvisionRequest) -> ProvisionedTarget:
    return asyncio.run(client.provision(order, _report))


def _report(done: int, total: int | None, unit: str) -> None:
    assert 0 <= done <= (total or done), (done, total)
    assert unit
