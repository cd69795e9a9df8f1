"""The deployment service: its commands and queries, and its background work."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "clock_corrector": ("ClockCorrection",),
        "deployment_service": ("DeploymentService",),
        "disk_usage": ("DeploymentUsage", "DiskUsage", "KindUsage"),
        "empty_logs": ("EmptyLogs",),
        "freeing": ("Freed",),
        "log_reading": ("LoggedEvent",),
        "stored_files": ("StoredFiles", "Use"),
    },
)
