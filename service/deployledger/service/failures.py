"""Failures of steps, from whatever a client raises."""

import traceback
from contextlib import suppress

from deployledger.domain.bounds import bounded
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Failure, Step

LONGEST_LOGGED = 1 << 21
"""Characters of an exception that are logged."""

_LONGEST_TRACEBACK = 1 << 16

_HINT = "The log of the service has the details; retry once the cause is fixed."


def described(error: BaseException) -> str:
    """Return the type and text of an exception, whose text may be very long, or raise when it is made."""
    name = type(error).__name__
    try:
        text = error.message if isinstance(error, MachineLearningServiceError) else f"{name}: {error}"
        return bounded(str(text), LONGEST_LOGGED)
    except BaseException as unreadable:  # a client's exception, whose code may do anything
        return f"{name}: (its text cannot be shown: {type(unreadable).__name__})"


def traceback_of(error: BaseException) -> str:
    """Return where an exception came from, and what caused it."""
    return bounded("".join(traceback.format_exception(error)).rstrip(), _LONGEST_TRACEBACK)


def failure_of(step: Step, error: BaseException) -> Failure:
    """Return the failure of a step that ended by an exception."""
    if isinstance(error, MachineLearningServiceError):
        with suppress(Exception):  # a class of a client's own may have attributes of other types
            hint = bounded(error.hint, LONGEST_LOGGED)
            return Failure(step=step, reason=error.reason, message=described(error), hint=hint)
    return Failure(
        step=step, reason=FailureReason.EXTERNAL_SERVICE_FAILED, message=described(error), hint=_HINT
    )
