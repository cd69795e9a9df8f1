"""The composed service: `MLModelDeploymentService` with its adapters, and the command line.

It is what ``core_ai_layer.machine_learning_service.ml_model_deployment_service`` gives, for applications
that have a package called ``core_ai_layer`` of their own.
"""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, {"composed_service": ("MLModelDeploymentService",)})
