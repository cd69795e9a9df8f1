"""Where the files of an artifact store are."""

from pathlib import Path

from deployledger.adapters.artifacts.blobs import Blobs
from deployledger.adapters.artifacts.users import Users


class StoreFiles:
    """Everything below the root of a store::

        blobs/sha256/<sha256 of a file>          the files, read-only
        listings/sha256/<sha256 of the listing>  what each model consists of
        folders/sha256/<sha256 of the listing>   the models' files under their own names (hard links)
        users/<event log>/<sha256 of a listing>  that an event log uses a model (an empty file)
        damaged/<sha256>                         files and listings that were found damaged
        staging/                                 what is being written; a killed process leaves its part here

    Whoever changes more than one of these holds ``lock``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.damaged = root / "damaged"
        self.blobs = Blobs(root / "blobs" / "sha256", damaged=self.damaged, lock=self.lock)
        self.listings = root / "listings" / "sha256"
        self.folders = root / "folders" / "sha256"
        self.staging = root / "staging"
        self.users = Users(root / "users")
