"""What can be done: the commands and queries of the deployment service, and its background work."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, {"deployment_service": ("DeploymentService",)})
