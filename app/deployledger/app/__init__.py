"""The composed service: `MLModelDeploymentService` with its adapters, and the command line.

It is what ``core_ai_layer.machine_learning_service.ml_model_deployment_service`` gives, for applications
that have a package called ``core_ai_layer`` of their own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployledger.app.composed_service import MLModelDeploymentService

__all__ = ["MLModelDeploymentService"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the command line's --help needs no service.
    if name in __all__:
        from deployledger.app import composed_service

        return getattr(composed_service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
