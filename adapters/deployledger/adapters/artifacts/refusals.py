"""The errors of the artifact store: what was wrong with the model, or with the store itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployledger.domain.exceptions import ModelRegistryError
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.disk_space import disk_full, is_full


def refused(reason: FailureReason, message: str, *, hint: str) -> ModelRegistryError:
    """Return the error for a model that is itself at fault (HTTP status 400)."""
    return ModelRegistryError(message, status_code=400, reason=reason, hint=hint)


def changed(path: str) -> ModelRegistryError:
    """Return the error for a model that somebody wrote to while it was being read."""
    return refused(
        FailureReason.MODEL_CHANGED,
        f"{path!r} changed while it was being read, so nothing was stored.",
        hint="Deploy again once whatever writes the model has finished.",
    )


def unreadable(path: str, error: OSError) -> ModelRegistryError:
    """Return the error for a file or folder that the operating system does not let us read."""
    return refused(
        FailureReason.MODEL_UNREADABLE,
        f"{path!r} cannot be read: {describe(error)}.",
        hint="Check its permissions and the disk it is on, and that its symbolic links point at something.",
    )


def damaged(digest: str, what: str) -> ModelRegistryError:
    """Return the error for stored files that are no longer what their digest says.

    Arguments:
        digest: the model they belong to.
        what: which file of the model is damaged, and how.
    """
    return ModelRegistryError(
        f"The stored files of {digest} are damaged: {what}.",
        status_code=500,
        reason=FailureReason.ARTIFACT_DAMAGED,
        hint=(
            "Deploy the model again to store it again, or restore the file from a backup. Another program "
            "wrote there, or the disk is failing."
        ),
    )


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn an `OSError` of the store's own folder into a typed error."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(root, error) from error
        raise ModelRegistryError(
            f"The artifact store in {str(root)!r} failed: {describe(error)}.",
            reason=FailureReason.STORAGE_FAILED,
            hint="Check that the disk has free space and that this process may write there, then try again.",
        ) from error


def describe(error: OSError) -> str:
    """Return the operating system's words for an error, without the path it happened to carry."""
    return error.strerror or str(error)
