"""The exit statuses by which a model server says why it does not serve; its last line says how."""

MODEL_REFUSED_STATUS = 65
"""The model is invalid (EX_DATAERR of sysexits.h)."""

RUNTIME_MISSING_STATUS = 69
"""The model needs a package that is not installed (EX_UNAVAILABLE)."""

DAMAGED_STATUS = 74
"""The model's files are damaged (EX_IOERR of sysexits.h)."""
