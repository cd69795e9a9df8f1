"""Models from an MLflow tracking server and its model registry.

Needs the ``mlflow`` extra; MLflow itself is imported on first use, not when this package is.
"""

from deployledger.adapters.mlflow.client import MlflowModelRegistryClient

__all__ = ["MlflowModelRegistryClient"]
