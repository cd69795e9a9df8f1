"""``deployledger list --as-of``: what it prints, and what it refuses."""

from pathlib import Path

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from tests.domain.given import request as wanted
from tests.e2e.conftest import CommandLine


@pytest.fixture
async def log(tmp_path: Path) -> CommandLine:
    """A command line whose log has three deployments that nothing runs, the last of them cancelled."""
    cli = CommandLine(tmp_path / "home")
    async with MLModelDeploymentService(home=cli.home, actor="ann", run_jobs=False, resume=False) as service:
        for name in ("iris", "rose", "tulip"):
            deployment = await service.deploy_model(wanted(deployment_name=name))
        await service.cancel_deployment(deployment.deployment_id)
    return cli


def position_of(log: CommandLine, name: str) -> str:
    return str(log.json("history", name)[0]["position"])


def test_the_list_as_it_was(log: CommandLine) -> None:
    at = position_of(log, "rose")
    assert [it["deployment_name"] for it in log.json("list", "--as-of", at)] == ["iris", "rose"]
    recorded_at = log.json("history", "rose")[0]["recorded_at"]
    assert [it["deployment_name"] for it in log.json("list", "--as-of", recorded_at)] == ["iris", "rose"]
    table = log.run("list", "--as-of", at)
    assert [line.split()[:2] for line in table.stdout.splitlines() if "iris" in line or "rose" in line] == [
        ["iris", "creating"],
        ["rose", "creating"],
    ]
    assert table.stderr == f"As of {recorded_at} (position {at}).\n"
    assert log.json("list", "--as-of", at, "--status", "inactive") == []
    assert log.json("history", "iris")[-1]["event"] == "Requested", "looking back resumes no job"


def test_ages_are_of_then(log: CommandLine) -> None:
    at = position_of(log, "iris")
    (line,) = [it for it in log.run("list", "--as-of", at).stdout.splitlines() if "iris" in it]
    assert line.split()[-2] == "0s"


def test_the_next_page_is_of_the_same_moment(log: CommandLine) -> None:
    at = position_of(log, "tulip")
    first = log.run("list", "--as-of", at, "--limit", "2")
    assert "2 of 3. Next page: " in first.stderr
    options = first.stderr.split("Next page: ")[1].split()
    assert options[:2] == ["--as-of", at]
    second = log.json("list", "--limit", "2", *options)
    assert [it["deployment_name"] for it in second] == ["tulip"]
    refused = log.run("list", "--limit", "2", *options[2:])
    assert refused.returncode == 2
    assert f"the list as of position {at}, not to the one as it is now" in refused.stderr


def test_nothing_was_there_yet(log: CommandLine) -> None:
    done = log.run("list", "--as-of", "2020-01-01T00:00Z")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "As of 2020-01-01T00:00Z (position 0).\nThere were no deployments.\n"
    assert log.json("list", "--as-of", "2020-01-01T00:00Z") == []


@pytest.mark.parametrize(
    ("as_of", "said"),
    [
        ("2026-01-01T00:00", "has no time zone"),
        ("2999-01-01T00:00Z", "is in the future"),
        ("99", "no position 99 in the event log: it ends at position 7"),
        ("r1", "no revision 1 of all deployments"),
        ("soon", "Cannot parse 'soon' as a point in time"),
    ],
)
def test_what_is_refused(log: CommandLine, as_of: str, said: str) -> None:
    done = log.run("list", "--as-of", as_of)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
