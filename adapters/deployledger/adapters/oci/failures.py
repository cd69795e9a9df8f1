"""The errors of the image layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.disk_space import disk_full, is_full

FETCH_AGAIN = "Deploy the model again to store it again, and check the disk."


def packaging_failed(message: str, *, hint: str) -> ExternalServiceError:
    """Return the error for a model that cannot be packaged, or an image that is not one of ours."""
    return ExternalServiceError(
        "container registry", message, reason=FailureReason.PACKAGING_FAILED, hint=hint
    )


def model_unreadable(path: Path, error: OSError) -> ExternalServiceError:
    """Return the error for a fetched model that cannot be read any more."""
    return file_damaged(f"{str(path)!r} cannot be read: {describe(error)}.")


def file_damaged(message: str) -> ExternalServiceError:
    """Return the error for a file of a fetched model that is not what was fetched."""
    return ExternalServiceError(
        "container registry", message, reason=FailureReason.ARTIFACT_DAMAGED, hint=FETCH_AGAIN
    )


def image_damaged(root: Path, what: str, *, hint: str = "") -> ExternalServiceError:
    """Return the error for a layout whose files are missing or not what their digests say."""
    return ExternalServiceError(
        "container registry",
        f"The image layout in {str(root)!r} is damaged: {what}.",
        reason=FailureReason.ARTIFACT_DAMAGED,
        hint=hint or "Retry the deployment to package its model again, and check the disk.",
    )


def model_damaged(folder: Path, digest: str, actual: str) -> ExternalServiceError:
    """Return the error for a folder to be packaged that does not hold the model it should."""
    return file_damaged(f"The files in {str(folder)!r} are those of the model {actual}, not of {digest}.")


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn an `OSError` of the folder ``root`` into a typed error."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(root, error) from error
        raise ExternalServiceError(
            "container registry",
            f"{str(root)!r} cannot be read or written: {describe(error)}.",
            reason=FailureReason.STORAGE_FAILED,
            hint="Check that the disk has free space and that this process may write there, then try again.",
        ) from error


def describe(error: OSError) -> str:
    """Return the operating system's words for an error, without the path it happened to carry."""
    return error.strerror or str(error)
