"""The value objects that events carry and status answers show.

All are immutable pydantic models: equal when their fields are equal, and safe to share between threads.
Sizes are bytes, times are aware datetimes in UTC, digests are ``sha256:`` and 64 hexadecimal digits.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from deployledger.domain.reasons import FailureReason

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Value(BaseModel):
    """Base of value objects: frozen, and strict about fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(StrEnum):
    """The steps of a deployment's job, in order; ``delete`` stands alone."""

    FETCH = "fetch"
    PACKAGE = "package"
    PROVISION = "provision"
    RUN = "run"
    DELETE = "delete"


class Artifact(Value):
    """A model's files as they were fetched: pinned, and named by what they contain.

    Attributes:
        digest: one digest for the whole tree of files; the same files give the same digest anywhere.
        size_bytes: the sum of the files' sizes.
        file_count: how many files.
        resolved_uri: the model URI with every mutable part (alias, stage, "latest") resolved.
        model_version: the registry's name of the version, where there is one.
    """

    digest: Digest
    size_bytes: int
    file_count: int
    resolved_uri: str
    model_version: str | None = None


class Image(Value):
    """A packaged model.

    Attributes:
        reference: where the image is, including its digest.
        digest: the digest of the image's manifest.
        size_bytes: the sum of the sizes of manifest, config and layers.
    """

    reference: str
    digest: Digest
    size_bytes: int


class Failure(Value):
    """Why, and at which step, a job failed, and what to do next.

    Attributes:
        step: the step that failed.
        reason: why, for programs.
        message: what happened, for people; at most 8,192 characters.
        hint: what to do next, or an empty text; at most 8,192 characters.
    """

    step: Step
    reason: FailureReason
    message: str
    hint: str = ""


class Progress(Value):
    """The progress of a job.

    Attributes:
        step: the step being done, or the last one done.
        steps_done: how many steps of the job are complete.
        steps_total: how many steps the job has.
        done: within the step, how many units are complete, where known.
        total: within the step, how many units there are, where known.
        unit: what ``done`` and ``total`` count, for example ``rows``.
        queue_position: where in line for a slot the deployment is, from 1 on, if it waits; only the process
            that does its job knows.
    """

    step: Step
    steps_done: int
    steps_total: int
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    queue_position: int | None = None
