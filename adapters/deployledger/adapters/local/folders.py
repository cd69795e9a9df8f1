"""Where everything of a deployment lies below the orchestrator's root."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from deployledger.gateway.revision_log import earlier
from deployledger.service.files.staging import remove

_REMOVING = ".removing-"


@dataclass(frozen=True)
class RevisionFolder:
    """The files of one revision."""

    path: Path

    @property
    def model(self) -> Path:
        """The extracted model; it exists only when it is complete."""
        return self.path / "model"

    @property
    def listing(self) -> Path:
        """The listing of the extracted model's files, which each start is checked against."""
        return self.path / "model.listing"

    @property
    def damaged_model(self) -> Path:
        """The last extracted model that was found damaged, for whoever looks into why."""
        return self.path / "model.damaged"

    @property
    def partial_model(self) -> Path:
        """Where the model is extracted to before it is complete."""
        return self.path / "model.partial"

    def remove_partial_models(self) -> None:
        """Remove what killed processes extracted. Call it only while holding the deployment's lock."""
        for leftover in (self.partial_model, *self.path.glob(f".{self.partial_model.name}.*")):
            remove(leftover)

    @property
    def server_log(self) -> Path:
        """What the replicas and the gateway said about this revision."""
        return self.path / "server.log"

    @property
    def job_log(self) -> Path:
        """What the batch job said."""
        return self.path / "job.log"

    @property
    def job_lock(self) -> Path:
        """Held by the batch job for its life."""
        return self.path / "job.lock"

    @property
    def job_status(self) -> Path:
        """What the batch job has done so far, as JSON."""
        return self.path / "status.json"

    @property
    def log(self) -> Path:
        """The log of whichever of the two this revision is."""
        return self.job_log if self.job_log.exists() else self.server_log

    @property
    def earlier_log(self) -> Path:
        """What that log said before it was rotated."""
        return earlier(self.log)


@dataclass(frozen=True)
class DeploymentFolder:
    """The files of one deployment."""

    root: Path
    deployment_id: UUID

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root / str(self.deployment_id)

    @property
    def operate_lock(self) -> Path:
        """Held while a process changes the deployment."""
        return self.path / "operate.lock"

    @property
    def port_file(self) -> Path:
        """The public port, kept for the next gateway."""
        return self.path / "port.json"

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
        _remove(self.path, self.root)

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
