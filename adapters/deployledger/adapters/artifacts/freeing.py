"""Removes models from the store, in an order that leaves no half of one."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deployledger.adapters.artifacts.store_files import StoreFiles
from deployledger.domain.stored import Decision, Kind, Stored, Verdict
from deployledger.service.files.listing import decode_listing, tree_digest
from deployledger.service.files.reading import is_named_by_digest, read_stored
from deployledger.service.files.staging import remove
from deployledger.service.files.writing import sync


class Freeing:
    """Does what was decided. Whoever calls it holds the lock of the store.

    Args:
        user: the event log that decided.
    """

    def __init__(self, files: StoreFiles, user: str) -> None:
        self._store = files
        self._user = user

    def run(self, decided: Iterable[tuple[Stored, Decision]]) -> None:
        """Remove what is to be freed, and then note which of the other models the log uses.

        Only notes need room on the disk.
        """
        freed: list[str] = []
        others: list[tuple[str, Decision]] = []
        for stored, decision in decided:
            if stored.kind is not Kind.MODEL:
                if decision.verdict is Verdict.FREE:
                    remove(Path(stored.path))
            elif decision.verdict is Verdict.FREE:
                self._store.users.forget(self._user, stored.digest)
                freed.append(stored.digest.removeprefix("sha256:"))
            else:
                others.append((stored.digest, decision))
        self._remove_models(freed)
        for digest, decision in others:
            self._note(digest, decision)

    def _note(self, digest: str, decision: Decision) -> None:
        match decision.verdict:
            case Verdict.KEEP:
                self._store.users.note(self._user, digest)
            case Verdict.LATER:
                self._store.users.mark(self._user, digest, decision.waits_for)
            case _:
                self._store.users.forget(self._user, digest)

    def _remove_models(self, names: Sequence[str]) -> None:
        files = {sha256 for name in names for sha256 in self._files(name) or ()}
        for name in names:
            (self._store.listings / name).unlink()
        if names:
            sync(self._store.listings)  # a model that a power failure brings back has all of its files
        for name in names:
            remove(self._store.folders / name)
        others = [
            self._files(listing.name)
            for listing in self._store.listings.iterdir()
            if is_named_by_digest(listing)
        ]
        if None in others:
            return  # nobody knows what the files of a damaged listing are until it is mended
        for sha256 in files.difference(*filter(None, others)):
            remove(self._store.blobs.path(sha256))

    def _files(self, name: str) -> set[str] | None:
        """Return the files of a listing; None if it is damaged."""
        try:
            listing = read_stored(self._store.listings / name)
            entries = decode_listing(listing)
        except (OSError, ValueError):
            return None
        return {entry.sha256 for entry in entries} if tree_digest(listing) == f"sha256:{name}" else None
