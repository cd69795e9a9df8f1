"""Files of a home are for its owner alone, or for the group it is shared with, whatever the umask is."""

import asyncio
import contextlib
import grp
import logging
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import export_log
from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.adapters.oci import extract_model
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.keys import Signer, write_pair
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from deployledger.service.files.home import open_home
from deployledger.service.files.private import make_folder, open_file
from deployledger.service.files.writing import write_new

WAIT = 60
EXAMPLES = Path(__file__).parents[2] / "examples"
GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def everything(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def modes_while_in_use(folder: Path) -> dict[Path, int]:
    """Return the mode of all that a folder has, but for what others remove meanwhile, such as locks."""
    modes = {}
    for parent, folders, files in os.walk(folder):
        for path in map(Path(parent).joinpath, (".", *folders, *files)):
            with contextlib.suppress(FileNotFoundError):
                modes[path] = mode(path)
    return modes


class Inspected(LocalProcessOrchestrator):
    """Notes the mode of everything in the home before anything is removed."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "serving", extract_model=extract_model)
        self.home = home
        self.modes: dict[Path, int] = {}

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        self.modes |= modes_while_in_use(self.home)
        await super().prune(deployment_id, keep_revision)


async def work(home: Path) -> dict[Path, int]:
    """Score with a model, serve it, and export what happened; return the mode of every file there was."""
    outside = home.parent
    write_pair("example.com/audit", outside / "audit.key")
    signer = Signer.load(outside / "audit.key")
    orchestrator = Inspected(home)
    targets = {
        "scores": DeploymentTargetConfig(
            type="batch_inference_job",
            input_uri=str(EXAMPLES / "data" / "iris.csv"),
            output_uri=str(outside / "scores.csv"),
        ),
        "iris": DeploymentTargetConfig(type="api_service"),
    }
    async with MLModelDeploymentService.local(
        orchestrator_client=orchestrator, home=home, signer=signer
    ) as service:
        for name, target in targets.items():
            deployment = await service.deploy_model(
                DeploymentRequest(
                    model_uri=str(EXAMPLES / "models" / "iris-v1.onnx"),
                    deployment_name=name,
                    deployment_target_config=target,
                )
            )
            done = await service.wait_for_deployment(deployment.deployment_id, timeout=WAIT)
            assert done.state in ("active", "completed"), done.message
            await service.settled(deployment.deployment_id)
        await service.list_deployments(as_of=1)
        log, evidence = service.event_log, outside / "evidence.zip"
        export = partial(export_evidence, deployment_id=done.deployment_id)
        await asyncio.to_thread(export, log, service.ledger, None, evidence)
        await asyncio.to_thread(export_log, log, outside / "log.gz")
        assert mode(evidence) == mode(outside / "log.gz") == 0o600, "they have what the events say"
        await service.delete_deployment(done.deployment_id)
        await service.wait_for_deployment(done.deployment_id, timeout=WAIT)
        modes = orchestrator.modes | modes_while_in_use(home)
    assert {
        *("deployledger.db-wal", "deployledger.db.read-models-wal", "deployledger.db.ledger"),
        *("artifacts", "folders", "blobs", "index.json", "identity", "model", "model.listing", "lock"),
        *("gateway.log", "server.log", "port.json", "job.log", "job.lock", "status.json"),
    } <= {path.name for path in modes}
    return modes


async def test_nobody_else_can_read_what_a_home_has(tmp_path: Path, no_umask: None) -> None:
    modes = await work(tmp_path / "new" / "home")
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}
    assert mode(tmp_path / "new" / "scores.csv") == 0o666, "the output is the user's, as their umask says"


async def test_the_group_of_a_home_can_use_all_of_it(
    tmp_path: Path, no_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_HOME_GROUP", GROUP)
    os.umask(0o077)
    make_folder(tmp_path / "new")
    modes = await work(tmp_path / "new" / "home")
    assert modes[tmp_path / "new" / "home"] == 0o2770
    assert {it: mode for it, mode in modes.items() if not _is_shared(it, mode)} == {}


def _is_shared(path: Path, mode: int) -> bool:
    # A file is made private, and then shared: locks and files that are being written may be seen in between.
    is_passing = path.name.startswith(".") or path.parent.name.endswith(".locks")
    return mode & 0o077 == (mode & 0o700) >> 3 or (is_passing and mode == 0o600)


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o600), (0o2755, 0o600), (0o2770, 0o660)])
def test_what_is_made_in_a_folder_is_shared_as_the_folder_is(
    folder: int, file: int, tmp_path: Path, umask: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(folder)
    make_folder(root / "a" / "b")
    make_folder(root / "a" / "b")
    inner = 0o700 if file == 0o600 else 0o2770
    assert [mode(root / "a") & ~0o2000, mode(root / "a" / "b") & ~0o2000] == [inner & ~0o2000] * 2
    os.close(open_file(root / "a" / "opened", os.O_RDWR | os.O_CREAT))
    write_new(root / "a" / "made")
    write_new(root / "a" / "made")
    assert [mode(it) for it in (root / "a" / "opened", root / "a" / "made")] == [file] * 2
    assert sorted(it.name for it in (root / "a").iterdir()) == ["b", "made", "opened"]


def _old_home(home: Path, *others: str) -> None:
    """Make a home as an earlier release made it."""
    for name in ("artifacts", "serving"):
        (home / name).mkdir(parents=True)
        (home / name).chmod(0o755)
    for name in ("deployledger.db", "deployledger.db-wal", "deployledger.db.ledger", *others):
        (home / name).touch()
        (home / name).chmod(0o644)
    home.chmod(0o755)


def test_a_home_of_an_earlier_release_is_made_private_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    _old_home(home)
    with caplog.at_level(logging.WARNING):
        open_home(home, None)
        open_home(home, None)
    assert [mode(it) & 0o077 for it in everything(home)] == [0] * 6
    (record,) = caplog.records
    assert f"Other users of this machine could read {home}" in record.getMessage()


def test_what_is_not_ours_keeps_its_mode(tmp_path: Path) -> None:
    """A home may be any folder, and that of another program is not ours to close."""
    home = tmp_path / "home"
    _old_home(home, "notes.txt")
    open_home(home, None)
    assert (mode(home), mode(home / "notes.txt")) == (0o755, 0o644)
    assert (mode(home / "artifacts"), mode(home / "deployledger.db")) == (0o700, 0o600)
    with pytest.raises(ConfigurationError, match=r"files that are not deployledger's, such as 'notes\.txt'"):
        open_home(home, GROUP)
    assert mode(home) == 0o755


def test_a_home_that_is_not_there_is_made_only_to_be_shared(tmp_path: Path) -> None:
    open_home(tmp_path / "home", None)
    assert not (tmp_path / "home").exists()
    open_home(tmp_path / "home", str(os.getegid()))
    assert mode(tmp_path / "home") == 0o2770


def test_an_old_home_is_shared_with_everything_in_it_and_stays_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _old_home(home)
    open_home(home, GROUP)
    open_home(home, None)
    assert mode(home) == mode(home / "artifacts") == 0o2770
    assert mode(home / "deployledger.db") == mode(home / "deployledger.db-wal") == 0o660


def test_a_group_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no group 'nobody-has-this'"):
        open_home(tmp_path / "home", "nobody-has-this")


def test_a_log_of_somebody_else_is_said_to_be_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.db"
    path.write_text("not a database")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # which root always has
    log = open_event_log(f"sqlite:///{path}", create=True)
    with pytest.raises(EventLogError, match=r"belongs to .*, and this user may not write to it") as refused:
        log.position()
    assert "DEPLOYLEDGER_HOME" in refused.value.hint
