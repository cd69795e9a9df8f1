"""The models stored on this machine: which revisions use them, and whether they match the event log."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from deployledger.domain import events
from deployledger.domain.deployment import builder
from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.findings import Finding, Outcome
from deployledger.domain.stored import KeepsFiles, Kind, Stored
from deployledger.domain.values import Artifact, Image
from deployledger.service.outside_calls import Call, OutsideCalls

_TOPICS = frozenset(
    event.TOPIC
    for event in (
        events.Requested,
        events.UpdateRequested,
        events.RetryRequested,
        events.ArtifactsFetched,
        events.Packaged,
        events.Provisioned,
        events.Failed,
        events.Cancelled,
        events.DeletionRequested,
        events.Deleted,
    )
)


@dataclass(frozen=True)
class Use:
    """A revision that stored files belong to.

    Attributes:
        serves: whether the revision serves now.
        deleted: whether its deployment was deleted.
    """

    deployment_id: UUID
    deployment_name: str
    revision: int
    serves: bool
    deleted: bool


@dataclass(frozen=True)
class StoredFiles:
    """A stored model or image, and the revisions that it belongs to, oldest first."""

    stored: Stored
    used_by: tuple[Use, ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether a deployment that was not deleted has it."""
        return any(not use.deleted for use in self.used_by)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        uses = [{**asdict(use), "deployment_id": str(use.deployment_id)} for use in self.used_by]
        return {**self.stored.to_json(), "used_by": uses}


@dataclass
class _Deployment:
    """What the log says of one deployment.

    Attributes:
        newest: its newest revision.
        ended: when each earlier revision was replaced (UTC).
        is_fetching: whether its newest revision is being fetched.
    """

    name: str
    orchestrator: str
    is_batch_job: bool
    artifacts: dict[int, Artifact] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    serving: int | None = None
    is_deleted: bool = False
    newest: int = 1
    ended: dict[int, datetime] = field(default_factory=dict)
    is_fetching: bool = True


@dataclass
class Recorded:
    """What the event log says was fetched and packaged.

    Attributes:
        deployments: every deployment by its id.
        names: the digest of the image that was last packaged under a name for other tools.
        requested: every such name that a revision has or would have had.
        position: how far the log was read.
    """

    deployments: dict[UUID, _Deployment] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    requested: set[str] = field(default_factory=set)
    position: int = 0

    @classmethod
    def read(cls, log: EventLog) -> "Recorded":
        """Read the whole log; events that do not decode are passed over."""
        recorded = cls()
        recorded.catch_up(log)
        return recorded

    def catch_up(self, log: EventLog) -> None:
        """Read what was added to the log."""
        until = log.position()
        for page in log.records(after=self.position, until=until):
            for raw in page:
                if raw.topic in _TOPICS:
                    try:
                        self._apply(log.decode(raw))
                    except UndecodableEventError:
                        continue
        self.position = until

    def _apply(self, event: events.Event) -> None:
        deployment = self.deployments.get(event.originator_id)
        match event:
            case events.Requested():
                self.deployments[event.originator_id] = _Deployment(
                    event.name, event.orchestrator, event.target.is_batch_job
                )
                self.requested.add(f"{event.name}-r1")
            case _ if deployment is None:
                return
            case events.UpdateRequested():
                deployment.name = event.name
                deployment.is_fetching = True
                deployment.ended[deployment.newest] = event.timestamp
                deployment.newest = event.revision
                if event.rollback_to in deployment.artifacts:
                    deployment.artifacts[event.revision] = deployment.artifacts[event.rollback_to]
                self.requested.add(f"{event.name}-r{event.revision}")
            case events.RetryRequested():
                deployment.is_fetching = True
            case events.ArtifactsFetched():
                deployment.is_fetching = False
                if not event.simulated:
                    deployment.artifacts[event.revision] = event.artifact
            case events.Packaged() if not event.simulated:
                deployment.images[event.revision] = event.image
                self.names[f"{deployment.name}-r{event.revision}"] = event.image.digest
            case events.Provisioned() if not deployment.is_batch_job:
                if deployment.serving is not None:
                    deployment.ended[deployment.serving] = event.timestamp
                deployment.serving = event.revision
            case events.Failed() | events.Cancelled() | events.DeletionRequested():
                deployment.is_fetching = False
            case events.Deleted():
                deployment.is_deleted = True
                deployment.is_fetching = False
                deployment.serving = None
            case _:
                pass

    def uses(self, stored: Stored) -> tuple[Use, ...]:
        """Return which revisions something stored belongs to, in the order of the log."""
        return tuple(
            Use(key, deployment.name, revision, deployment.serving == revision, deployment.is_deleted)
            for key, deployment in self.deployments.items()
            for revision in _revisions(stored, key, deployment)
        )

    def damage(self, stored: Stored) -> tuple[str, ...]:
        """Return what of something stored is not what the log says, a sentence each."""
        if stored.kind is Kind.IMAGE:
            return tuple(
                f"index.json names it {name!r}, but the event log has {self.names[name]} under that name."
                for name in stored.names
                if self.names.get(name, stored.digest) != stored.digest
            )
        owner = stored.deployment_id and self.deployments.get(stored.deployment_id)
        if owner and stored.digest:
            artifact = owner.artifacts.get(stored.revision or 0)
            if artifact is not None and artifact.digest != stored.digest:
                return (
                    f"{stored.path} and the listing beside it do not belong to the model {artifact.digest}.",
                )
        return ()

    def source(self, digest: str) -> str | None:
        """Return where a model was fetched from."""
        for deployment in self.deployments.values():
            for artifact in deployment.artifacts.values():
                if artifact.digest == digest:
                    return artifact.resolved_uri
        return None


def _revisions(stored: Stored, key: UUID, deployment: _Deployment) -> Iterable[int]:
    match stored.kind:
        case Kind.MODEL:
            return [
                revision
                for revision, artifact in deployment.artifacts.items()
                if artifact.digest == stored.digest
            ]
        case Kind.IMAGE:
            return [
                revision for revision, image in deployment.images.items() if image.digest == stored.digest
            ]
        case Kind.EXTRACTED_MODEL if stored.deployment_id == key and stored.revision is not None:
            return [stored.revision]
    return []


async def stored_files(
    calls: OutsideCalls, clients: Sequence[object], recorded: Recorded, *, read: bool
) -> list[StoredFiles]:
    """Return everything that the clients keep, and which revisions it belongs to.

    Args:
        clients: the artifact store, the container registry, the orchestrator; those that keep files on this
            machine say so.
        read: whether to read all of it, and report what is damaged.
    """
    return [
        StoredFiles(stored, recorded.uses(stored))
        for client in clients
        if isinstance(client, KeepsFiles)
        for stored in await calls.call(Call.STORED_FILES, None, client.stored, read=read)
    ]


def findings(files: Sequence[StoredFiles], recorded: Recorded) -> list[Finding]:
    """Return what is damaged, and in a sentence for each kind what is not."""
    return [finding for kind in Kind for finding in _of_kind(kind, files, recorded)]


_NOUNS = {
    Kind.MODEL: ("model", "models"),
    Kind.IMAGE: ("image", "images"),
    Kind.IMAGE_INDEX: ("index of images", "indexes of images"),
    Kind.EXTRACTED_MODEL: ("extracted model", "extracted models"),
    Kind.UNUSED_FILE: ("file of no model or image", "files of no model or image"),
    Kind.DAMAGED_FILE: ("damaged file that was set aside", "damaged files that were set aside"),
}


def _of_kind(kind: Kind, files: Sequence[StoredFiles], recorded: Recorded) -> Iterator[Finding]:
    ours = [each for each in files if each.stored.kind is kind]
    size = sum(each.stored.size_bytes for each in ours)
    counted = f"{len(ours):,} {_NOUNS[kind][len(ours) != 1]} ({size:,} bytes)"
    if kind is Kind.DAMAGED_FILE:
        if ours:
            paths = ", ".join(each.stored.path for each in ours)
            hint = f"Keep them to investigate what happened to the disk, or remove them: {paths}."
            yield Finding(kind.value, Outcome.WARNING, f"{counted}.", hint)
        return
    problems = [(each, problem) for each in ours for problem in _problems(each.stored, recorded)]
    for stored, problem in problems:
        yield Finding(
            kind.value,
            Outcome.PROBLEM,
            f"{_described(stored)} is damaged: {problem}",
            _hint(stored, recorded),
        )
    if not problems and ours:
        yield Finding(kind.value, Outcome.OK, f"{counted}: undamaged.")


def _problems(stored: Stored, recorded: Recorded) -> tuple[str, ...]:
    otherwise_recorded = recorded.damage(stored)
    if stored.kind is Kind.EXTRACTED_MODEL and otherwise_recorded:
        return otherwise_recorded  # the listing is wrong, and so says nothing of the files
    return (*stored.damage, *otherwise_recorded)


def _described(files: StoredFiles) -> str:
    noun = _NOUNS[files.stored.kind][0]
    digest = f" {files.stored.digest}" if files.stored.digest else ""
    uses = ", ".join(f"{use.deployment_name} r{use.revision}" for use in files.used_by if not use.deleted)
    return f"The {noun}{digest}{f' of {uses}' if uses else ''}"


def _hint(files: StoredFiles, recorded: Recorded) -> str:
    serving = [use.deployment_name for use in files.used_by if use.serves]
    match files.stored.kind:
        case Kind.MODEL:
            source = recorded.source(files.stored.digest)
            return "The damaged file is never used. Deploy the same files again to store them again" + (
                f"; they came from {source}." if source else "."
            )
        case Kind.EXTRACTED_MODEL if serving:
            return (
                f"The damaged files are never loaded: {serving[0]} serves what it loaded before. When the "
                f"server has stopped, `deployledger resume {serving[0]}` extracts the model again."
            )
        case Kind.IMAGE if any(not use.deleted for use in files.used_by):
            return "It is never used while damaged; it is packaged again when it is needed."
        case Kind.IMAGE_INDEX:
            return (
                "Restore it from a backup; otherwise the next deployment sets it aside and begins a new one. "
                "It only gives images their names for other tools."
            )
    return "Nothing uses it: remove it."


def contradictions(recorded: Recorded) -> Iterator[Finding]:
    """Yield a warning for each model of which the log has several images: equal files make equal images.

    Only images of one builder are compared, as `deployledger.domain.deployment.Deployment` does it.
    """
    first: dict[tuple[str, str], tuple[Image, str]] = {}
    for deployment in recorded.deployments.values():
        for revision, image in deployment.images.items():
            artifact = deployment.artifacts.get(revision)
            if artifact is None:
                continue
            name = f"{deployment.name} r{revision}"
            other, whose = first.setdefault((artifact.digest, builder(image)), (image, name))
            if other.digest != image.digest:
                yield Finding(
                    Kind.IMAGE.value,
                    Outcome.WARNING,
                    f"The model {artifact.digest} was packaged as {other.digest} for {whose}, and as "
                    f"{image.digest} for {name}.",
                    "Equal files make equal images: check this machine's memory, and the container registry.",
                )


def missing(recorded: Recorded, files: Sequence[StoredFiles], orchestrator: str) -> Iterator[Finding]:
    """Yield a warning for each model that is not stored and that a deployment may go back to."""
    stored = {each.stored.digest for each in files if each.stored.kind is Kind.MODEL}
    for deployment in recorded.deployments.values():
        if deployment.is_deleted or deployment.orchestrator != orchestrator:
            continue
        for revision, artifact in deployment.artifacts.items():
            if artifact.digest not in stored:
                stored.add(artifact.digest)
                yield Finding(
                    Kind.MODEL.value,
                    Outcome.WARNING,
                    f"The model {artifact.digest} of {deployment.name} r{revision} is not stored.",
                    f"Rolling back to it fetches it again from {artifact.resolved_uri}.",
                )
