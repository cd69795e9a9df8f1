"""Deployments with unfinished work, and work that no process is doing."""

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ResourceNotFoundError, UndecodableEventError
from deployledger.domain.lifecycle import State
from deployledger.domain.ports import OrchestratorClientInterface
from deployledger.projections.read_models import ReadModels
from deployledger.projections.selection import Condition
from deployledger.service.listing import keys
from deployledger.service.repository import Repository


@dataclass(frozen=True)
class UnfinishedWork:
    """The work on the deployments of one orchestrator. Methods block."""

    repository: Repository
    models: ReadModels
    orchestrator: OrchestratorClientInterface

    def in_progress(self) -> list[UUID]:
        """Return the deployments that have a job to do, whoever is doing it."""
        return self._where("in_progress")

    def serving(self) -> list[UUID]:
        """Return the deployments of which a revision is to serve."""
        return self._where("is_serving")

    def is_left(self, deployment_id: UUID) -> bool:
        """Return whether a deployment has a job to do, and no process is on it.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        deployment = self.repository.deployment(deployment_id)
        return self._is_ours(deployment) and deployment.is_in_progress and self._is_free(deployment_id)

    def leftovers(self, provisioned: dict[UUID, set[int]]) -> list[UUID]:
        """Return the deployments with running servers that should be stopped, and no process working on them.

        Args:
            provisioned: which revisions of which deployments exist.
        """
        usual = set(self.serving()) - set(self.in_progress())
        return [
            deployment_id
            for deployment_id, revisions in provisioned.items()
            if not (deployment_id in usual and len(revisions) == 1)
            and self._is_left_over(deployment_id, revisions)
        ]

    def _is_left_over(self, deployment_id: UUID, revisions: set[int]) -> bool:
        with suppress(ResourceNotFoundError, UndecodableEventError):  # of another log, or version
            deployment = self.repository.deployment(deployment_id)
            is_in_excess = deployment.state is not State.DELETE_FAILED and bool(
                revisions - {deployment.serving_revision}
            )
            is_wanted = self._is_ours(deployment) and (is_in_excess or deployment.is_in_progress)
            return is_wanted and self._is_free(deployment_id)
        return False

    def _where(self, column: str) -> list[UUID]:
        is_ours = Condition("orchestrator", "=", self.orchestrator.name)
        return [UUID(key) for key in keys(self.models, is_ours, Condition(column, "=", True))]

    def _is_ours(self, deployment: Deployment) -> bool:
        return deployment.orchestrator == self.orchestrator.name

    def _is_free(self, deployment_id: UUID) -> bool:
        with self.repository.log.ownership(deployment_id) as is_free:
            return is_free
