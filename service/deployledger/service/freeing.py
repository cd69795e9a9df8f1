"""Decides which stored files no deployment needs any longer, and frees them."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import InsufficientStorageError
from deployledger.domain.ports import OrchestratorClientInterface
from deployledger.domain.stored import (
    OTHER_TOOLS,
    Decision,
    File,
    FreesFiles,
    KeepsFiles,
    Kind,
    Stored,
    Verdict,
)
from deployledger.service.outside_calls import Call, OutsideCalls
from deployledger.service.stored_files import Recorded, StoredFiles

_UNNEEDED = "no deployment uses it"
_NOT_KEPT = "no kept revision needs it"


@dataclass(frozen=True)
class KeepRules:
    """What is kept besides the newest and the serving revision of each deployment.

    Attributes:
        revisions: how many earlier revisions of each deployment.
        time: for how long revisions that were replaced, and damaged files that were set aside.
    """

    revisions: int = 3
    time: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class Decided:
    """The decision about something stored.

    Attributes:
        reason: why, as a clause.
    """

    files: StoredFiles
    decision: Decision
    reason: str

    @property
    def verdict(self) -> Verdict:
        """What becomes of it."""
        return self.decision.verdict

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            **self.files.to_json(),
            "verdict": self.verdict.name.lower(),
            "reason": self.reason,
            "disk_bytes": sum(self.files.stored.files.values()),
        }


@dataclass(frozen=True)
class Freed:
    """The result of freeing, or of a dry run.

    Attributes:
        decided: the outcome for everything that is stored.
        is_plan: whether nothing was changed.
    """

    decided: tuple[Decided, ...]
    is_plan: bool

    @property
    def freed(self) -> list[Decided]:
        """Return what was freed, or would be."""
        return [each for each in self.decided if each.verdict is Verdict.FREE]

    @property
    def left(self) -> list[Decided]:
        """Return what this event log does not need, but another user of the home may."""
        return [each for each in self.decided if each.verdict in (Verdict.LEAVE, Verdict.LATER)]

    @property
    def freed_files(self) -> dict[File, int]:
        """Return the files whose last link is gone, with the bytes that each occupied on disk."""
        kept = {
            file
            for each in self.decided
            if each.verdict is not Verdict.FREE or OTHER_TOOLS in each.files.stored.users
            for file in each.files.stored.files
        }
        return {
            file: size
            for each in self.freed
            for file, size in each.files.stored.files.items()
            if file not in kept
        }

    @property
    def freed_bytes(self) -> int:
        """Return the number of bytes freed on disk."""
        return sum(self.freed_files.values())

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "dry_run": self.is_plan,
            "freed_bytes": self.freed_bytes,
            "freed": [each.to_json() for each in self.freed],
            "left": [each.to_json() for each in self.left],
        }


def log_id(log: EventLog) -> str:
    """Return what identifies an event log, even after it is moved: the id of its first event.

    A log without events has none, and gives an empty text.
    """
    for page in undamaged(log.records(limit=1, metadata=True)):
        for record in page:
            return record.event_id.hex()
    return ""


class Freeing:
    """One inspection of the stored files, with decisions by the log as of that moment.

    Args:
        calls: calls the clients.
        user: the id of the log.
        now: the clock.
    """

    def __init__(
        self, log: EventLog, calls: OutsideCalls, *, rules: KeepRules, user: str, now: Callable[[], datetime]
    ) -> None:
        self._log = log
        self._calls = calls
        self._rules = rules
        self._user = user
        self._now = now
        self._recorded = Recorded()
        self._models: dict[str, Stored] = {}
        self._has_strangers = False
        self._decided: list[Decided] = []

    async def run(
        self, clients: Sequence[object], orchestrator: OrchestratorClientInterface, *, dry_run: bool
    ) -> Freed:
        """Free what nobody needs, or only list it.

        Images go before the models in them: the models know which logs use them. A client that must write
        first, and finds the disk full, is called again when the others have freed theirs.

        Raises:
            InsufficientStorageError: if the disk is still full after that.
            MachineLearningServiceError: if something cannot be read or removed.
        """
        keepers = [client for client in clients if isinstance(client, KeepsFiles)]
        kept = [
            (keeper, await self._calls.call(Call.STORED_FILES, None, keeper.stored, read=False))
            for keeper in keepers
        ]
        provisioned = set(await self._calls.call(Call.QUERY, None, orchestrator.provisioned))
        await asyncio.to_thread(self._recorded.catch_up, self._log)
        self._has_strangers = not self._recorded.deployments.keys() >= provisioned
        self._look([each for _, stored in kept for each in stored])
        waiting: list[tuple[FreesFiles, list[Decided]]] = []
        for keeper, stored in reversed(kept):
            if not isinstance(keeper, FreesFiles):
                self._decided += [_left(each, self._recorded) for each in stored]
            elif dry_run:
                await asyncio.to_thread(self.decide, stored)
            else:
                already = len(self._decided)
                try:
                    await self._calls.call(Call.STORED_FILES, None, keeper.free, self.decide, self._user)
                except InsufficientStorageError:
                    waiting.append((keeper, self._decided[already:]))
                    del self._decided[already:]
        if not dry_run:
            for deployment_id in provisioned:
                if self._is_deleted(deployment_id):
                    await self._calls.call(Call.PRUNE, None, orchestrator.prune, deployment_id, None)
            for keeper, decided in waiting:
                await self._free_again(keeper, decided)
            self._decided = await asyncio.to_thread(lambda: [_checked(each) for each in self._decided])
        return Freed(tuple(reversed(self._decided)), dry_run)

    async def _free_again(self, keeper: FreesFiles, decided: Sequence[Decided]) -> None:
        """Free what is left of what a client was to free when the disk was full, which may be all of it."""
        already = len(self._decided)
        try:
            await self._calls.call(Call.STORED_FILES, None, keeper.free, self.decide, self._user)
        except InsufficientStorageError as error:
            raise InsufficientStorageError(
                f"{error.message[:1].upper()}{error.message[1:]}. Only part of it was freed.",
                hint="Remove a file of another program from that disk, then run `deployledger gc` again.",
            ) from error
        left = {each.files.stored.path for each in self._decided[already:]}
        self._decided += [
            each for each in decided if each.verdict is Verdict.FREE and each.files.stored.path not in left
        ]

    def decide(self, stored: Sequence[Stored]) -> list[Decision]:
        """Return the decision about each; called while nothing can be added to the store concerned.

        So whatever a step stored before is either recorded by now, or its model has this log as a user.
        """
        self._recorded.catch_up(self._log)
        self._look(stored)
        decided = list(self._decisions(stored))
        if any(_is_unreadable(each.files.stored) and each.verdict is not Verdict.FREE for each in decided):
            decided = [_later(each) for each in decided]
        self._decided += decided
        return [each.decision for each in decided]

    def _look(self, stored: Sequence[Stored]) -> None:
        """Note the models, and whether another log uses this home too."""
        for each in stored:
            if each.kind is Kind.MODEL:
                self._models[each.digest] = each
                self._has_strangers |= not {*each.users, *each.marked_by} <= {self._user}
            elif each.kind is Kind.IMAGE:
                self._has_strangers |= not self._recorded.requested.issuperset(each.names)

    def _decisions(self, stored: Sequence[Stored]) -> Iterator[Decided]:
        needed = self._needed()
        is_damaged = any(
            _is_unreadable(each) or (each.kind is Kind.IMAGE_INDEX and each.damage) for each in stored
        )
        for each in stored:
            uses = self._recorded.uses(each)
            reason = next(
                (needed[key] for use in uses if (key := (use.deployment_id, use.revision)) in needed), ""
            )
            match each.kind:
                case _ if reason:
                    verdict = Verdict.KEEP
                case Kind.MODEL:
                    verdict, reason = self._model(each, is_known=bool(uses))
                case Kind.IMAGE:
                    verdict, reason = self._image(each, needed, is_damaged=is_damaged)
                case Kind.UNUSED_FILE if each.users:
                    verdict, reason = Verdict.LEAVE, "another program may use it"
                case Kind.UNUSED_FILE:
                    verdict, reason = Verdict.FREE, "it belongs to no model or image"
                    if is_damaged:
                        verdict, reason = Verdict.LEAVE, "what it belongs to cannot be read"
                case Kind.DAMAGED_FILE:
                    verdict, reason = Verdict.FREE, "it was damaged, and has been kept long enough"
                    if each.changed_at is not None and self._now() - each.changed_at < self._rules.time:
                        verdict, reason = Verdict.KEEP, "it was set aside recently"
                case Kind.EXTRACTED_MODEL:
                    verdict, reason = Verdict.LEAVE, "its deployment is not in this event log"
                    if each.deployment_id and self._is_deleted(each.deployment_id):
                        verdict, reason = Verdict.FREE, "its deployment was deleted"
                    elif each.deployment_id in self._recorded.deployments:
                        verdict, reason = Verdict.KEEP, "its orchestrator removes it"
                case _:
                    verdict, reason = Verdict.KEEP, "it names the images"
            waits_for = self._awaited(each) if verdict is Verdict.LATER else ()
            names = self._own_names(each) if verdict is Verdict.LEAVE and not is_damaged else ()
            yield Decided(StoredFiles(each, uses), Decision(verdict, waits_for, names), reason)

    def _model(self, model: Stored, *, is_known: bool) -> tuple[Verdict, str]:
        is_ours = self._user in (*model.users, *model.marked_by)
        if set(model.users) - {self._user}:
            return Verdict.LEAVE, "another event log uses it"
        if not is_known and not is_ours:
            return Verdict.LEAVE, "it is not in this event log"
        if not (is_ours and is_known) and self._has_strangers:
            return Verdict.LEAVE, "another event log that uses this home may use it"
        if self._awaited(model):
            return Verdict.LATER, "a deployment that is being fetched may need it"
        return Verdict.FREE, _NOT_KEPT if is_known else _UNNEEDED

    def _image(
        self, image: Stored, needed: Mapping[tuple[UUID, int], str], *, is_damaged: bool
    ) -> tuple[Verdict, str]:
        if is_damaged:
            return Verdict.LEAVE, "the index of images is damaged"
        digests = {
            artifact.digest
            for deployment in self._recorded.deployments.values()
            for revision, built in deployment.images.items()
            if built.digest == image.digest and (artifact := deployment.artifacts.get(revision)) is not None
        }
        if any(
            self._recorded.deployments[deployment_id].artifacts[revision].digest in digests
            for deployment_id, revision in needed
            if revision in self._recorded.deployments[deployment_id].artifacts
        ):
            return Verdict.KEEP, "its model is needed"
        if not self._recorded.requested.issuperset(image.names):
            return Verdict.LEAVE, "it has a name that is not in this event log"
        models = [self._models[digest] for digest in digests if digest in self._models]
        if any(set(model.users) - {self._user} for model in models):
            return Verdict.LEAVE, "another event log uses its model"
        if self._has_strangers and not any(
            self._user in (*model.users, *model.marked_by) for model in models
        ):
            return Verdict.LEAVE, "another event log that uses this home may use it"
        if not digests and not image.names:
            return Verdict.LEAVE, "it is not in this event log"
        return Verdict.FREE, _NOT_KEPT if digests else _UNNEEDED

    def _own_names(self, stored: Stored) -> tuple[str, ...]:
        """Return the names that this log gave an image, if it has others: whoever gave these frees it."""
        own = self._recorded.requested.intersection(stored.names)
        return tuple(sorted(own)) if not own.issuperset(stored.names) else ()

    def _needed(self) -> dict[tuple[UUID, int], str]:
        """Return the revisions that are kept, and why."""
        needed: dict[tuple[UUID, int], str] = {}
        now = self._now()
        for key, deployment in self._recorded.deployments.items():
            if deployment.is_deleted:
                continue
            current = {deployment.newest: "the newest revision uses it"}
            if deployment.serving is not None:
                current[deployment.serving] = "it serves"
            earlier = sorted(deployment.artifacts.keys() - current, reverse=True)
            for number, revision in enumerate(earlier):
                ended = deployment.ended.get(revision)
                if number < self._rules.revisions or (ended is not None and now - ended < self._rules.time):
                    needed[key, revision] = "it is kept for a rollback"
            needed.update({(key, revision): reason for revision, reason in current.items()})
        return needed

    def _awaited(self, model: Stored) -> tuple[str, ...]:
        """Return the deployments that may have stored a model and not recorded it yet.

        What is being fetched now may have, unless the model was marked before that began.
        """
        fetching = {str(key) for key, each in self._recorded.deployments.items() if each.is_fetching}
        if self._user not in model.users:
            fetching.intersection_update(model.marked_by.get(self._user, ()))
        return tuple(sorted(fetching))

    def _is_deleted(self, deployment_id: UUID) -> bool:
        deployment = self._recorded.deployments.get(deployment_id)
        return deployment is not None and deployment.is_deleted


def _is_unreadable(stored: Stored) -> bool:
    """Return whether something is a model whose listing is damaged: any stored file may be of it."""
    return stored.kind is Kind.MODEL and bool(stored.damage) and stored.file_count is None


def _checked(decided: Decided) -> Decided:
    """Return the outcome for something stored: what could not be removed is still there."""
    if decided.verdict is not Verdict.FREE or not os.path.lexists(decided.files.stored.path):
        return decided
    return Decided(decided.files, Decision(Verdict.LEAVE), "it could not be removed, or was stored again")


def _later(decided: Decided) -> Decided:
    """Put off freeing a model until no listing that may name its files is damaged."""
    if decided.files.stored.kind is not Kind.MODEL or decided.verdict is not Verdict.FREE:
        return decided
    return Decided(decided.files, Decision(Verdict.LATER), "a damaged listing may name its files")


def _left(stored: Stored, recorded: Recorded) -> Decided:
    """Return that something is left, because the client that keeps it frees nothing."""
    return Decided(
        StoredFiles(stored, recorded.uses(stored)), Decision(Verdict.LEAVE), "its client cannot free it"
    )
