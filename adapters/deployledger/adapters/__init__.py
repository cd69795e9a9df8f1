"""Adapters for the outside: databases, registries, packaging and orchestrators."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "artifacts": ("LocalArtifactStore",),
        "event_log": ("open_event_log",),
        "export": ("export_log", "import_log"),
        "local": ("LocalProcessOrchestrator",),
        "mlflow": ("MlflowModelRegistryClient",),
        "oci": ("OciLayoutRegistry",),
    },
)
