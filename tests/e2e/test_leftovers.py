"""Commands have servers stopped that a killed process left, and say why a log is empty."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli import background
from tests.e2e.in_process import InProcess
from tests.service.outside import HeldOrchestrator


class Quiet(HeldOrchestrator):
    """A cluster whose servers log nothing."""

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        for line in ():
            yield line


@dataclass
class OnCluster(InProcess):
    """Runs ``deployledger`` with a cluster."""

    cluster: HeldOrchestrator = field(default_factory=Quiet)

    def _open(self) -> MLModelDeploymentService:
        return MLModelDeploymentService(
            None, None, self.cluster, database_url=self.database_url, create_schema=True, resume=False
        )


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> OnCluster:
    return OnCluster(database_url, monkeypatch)


def test_every_command_has_servers_stopped_that_a_killed_process_left(
    cli: OnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[UUID] = []
    monkeypatch.setattr(background, "resume_in_background", resumed.append)
    for name in ("iris", "rose"):
        assert cli.run("deploy", "models:/iris/1", "--name", name).exit_code == 0
    left, other = sorted(cli.cluster.runs, key=str)
    cli.cluster.runs[left].add(7)
    for arguments in (
        ["list"],
        ["status", other],
        ["update", other, "--model-uri", "models:/iris/2"],
        ["rollback", other, "--to-revision", 1],
        ["delete", other],
    ):
        resumed.clear()
        assert cli.run(*arguments).exit_code == 0
        assert resumed == [left], arguments
    # but what stops them does not do so in turn, and ends
    resumed.clear()
    assert cli.run("resume", left).exit_code == 0
    assert (resumed, cli.cluster.runs) == ([], {left: {1}})


def test_an_empty_log_says_why_on_standard_error(cli: OnCluster) -> None:
    assert cli.run("deploy", "models:/iris/1", "--name", "iris").exit_code == 0
    done = cli.run("logs", "iris")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "The server of deployment 'iris' has logged nothing yet.",
        "`deployledger status iris` shows more.",
    ]
    assert cli.run("delete", "iris").exit_code == 0
    done = cli.run("logs", "iris", "--follow")
    assert "was deleted, and its logs with it." in done.stderr
