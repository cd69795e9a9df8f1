"""Where everything of a deployment lies below the orchestrator's root."""

from pathlib import Path
from uuid import UUID, uuid4

from deployledger.gateway import earlier
from deployledger.service.files.staging import remove

_REMOVING = ".removing-"


class RevisionFolder:
    """The files of one revision.

    Attributes:
        path: the folder itself.
        model: the extracted model; it exists only when it is complete.
        listing: the listing of the extracted model's files, which each start is checked against.
        damaged_model: the last extracted model that was found damaged, for whoever looks into why.
        partial_model: where the model is extracted to before it is complete.
        server_log: what the replicas and the gateway log of this revision.
        job_log: what the batch job logs.
        job_lock: held by the batch job for its life.
        job_status: how far the batch job is, as JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.listing = path / "model.listing"
        self.damaged_model = path / "model.damaged"
        self.partial_model = path / "model.partial"
        self.server_log = path / "server.log"
        self.job_log = path / "job.log"
        self.job_lock = path / "job.lock"
        self.job_status = path / "status.json"

    def remove_partial_models(self) -> None:
        """Remove what killed processes extracted. Call it only while holding the deployment's lock."""
        for leftover in (self.partial_model, *self.path.glob(f".{self.partial_model.name}.*")):
            remove(leftover)

    @property
    def log(self) -> Path:
        """The log of the server or of the batch job, whichever this revision is."""
        return self.job_log if self.job_log.exists() else self.server_log

    @property
    def earlier_log(self) -> Path:
        """What that log had before it was rotated."""
        return earlier(self.log)


class DeploymentFolder:
    """The files of one deployment.

    Attributes:
        path: the folder itself.
        operate_lock: held while a process changes the deployment.
        port_file: the public port, kept for the next gateway.
        unfinished: where a killed batch job left its output, for a retry; it outlives the folder.
    """

    def __init__(self, root: Path, deployment_id: UUID) -> None:
        self.deployment_id = deployment_id
        self._root = root
        self.path = root / str(deployment_id)
        self.operate_lock = self.path / "operate.lock"
        self.port_file = self.path / "port.json"
        self.unfinished = root / f"unfinished-{deployment_id}.json"

    def revision(self, number: int) -> RevisionFolder:
        """Return the folder of one revision, which need not exist."""
        return RevisionFolder(self.path / "revisions" / str(number))

    def revisions(self) -> set[int]:
        """Return which revisions have a folder."""
        try:
            return {int(path.name) for path in (self.path / "revisions").iterdir() if path.name.isdecimal()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def remove(self) -> None:
        """Remove the deployment's folder; nobody ever sees it half removed under its name."""
        _remove(self.path, self._root)

    def remove_revision(self, number: int) -> None:
        """Remove one revision's folder, likewise."""
        _remove(self.revision(number).path, self.path)


def deployment_folders(root: Path) -> list[DeploymentFolder]:
    """Return every deployment that has something under ``root``."""
    try:
        names = [path.name for path in root.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [DeploymentFolder(root, UUID(name)) for name in names if _is_uuid(name)]


def sweep(folder: Path) -> None:
    """Finish the removals below ``folder`` that a killed process left half done."""
    for leftover in folder.glob(f"{_REMOVING}*"):
        remove(leftover)


def _remove(path: Path, into: Path) -> None:
    doomed = into / f"{_REMOVING}{uuid4().hex}"
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    # Another process may sweep the same folder at the same time; what it removed first is no error.
    remove(doomed)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
