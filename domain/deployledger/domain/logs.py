"""The loggers of the service, which blank credentials, also in the tracebacks of clients' errors."""

import logging

from deployledger.domain.redaction import loggable

NAME = "ml_model_deployment_service"

_FORMATTER = logging.Formatter()


class _WithoutCredentials(logging.Filter):
    """Blanks the credentials in a record before any handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = loggable(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            # The exception itself goes: handlers that format it on their own would show what it holds.
            record.exc_text, record.exc_info = loggable(record.exc_text), None
        if record.stack_info:
            record.stack_info = loggable(record.stack_info)
        return True


_FILTER = _WithoutCredentials()


def logger(part: str = "") -> logging.Logger:
    """Return the logger of a part of the service, ``ml_model_deployment_service.<part>``, or of the whole."""
    part_logger = logging.getLogger(f"{NAME}.{part}" if part else NAME)
    part_logger.addFilter(_FILTER)  # which adds it once; filters are not inherited
    return part_logger
