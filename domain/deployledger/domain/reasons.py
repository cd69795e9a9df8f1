"""Why jobs fail, as codes."""

from enum import StrEnum


class FailureReason(StrEnum):
    """Why a job failed. Stored in events: a value may be added, never changed or removed."""

    INVALID_CONFIGURATION = "invalid_configuration"
    CREDENTIAL_IN_REQUEST = "credential_in_request"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_EMPTY = "model_empty"
    MODEL_UNREADABLE = "model_unreadable"
    MODEL_UNSAFE = "model_unsafe"
    MODEL_INVALID = "model_invalid"
    MODEL_CHANGED = "model_changed"
    ARTIFACT_DAMAGED = "artifact_damaged"
    UNSUPPORTED_FORMAT = "unsupported_format"
    RUNTIME_MISSING = "runtime_missing"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    PACKAGING_FAILED = "packaging_failed"
    PORT_IN_USE = "port_in_use"
    SERVER_EXITED = "server_exited"
    SERVER_NOT_READY = "server_not_ready"
    BATCH_INPUT_INVALID = "batch_input_invalid"
    BATCH_FAILED = "batch_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    STORAGE_FAILED = "storage_failed"
    EXTERNAL_SERVICE_FAILED = "external_service_failed"
    INTERNAL_ERROR = "internal_error"
