"""What the resources that a deployment asks for mean on this machine."""

import math
import os

from deployledger.domain.requests import ResourceConfig

_SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    **{letter: 1000.0**power for power, letter in enumerate("MGTPE", start=2)},
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)},
}


def cores(quantity: str) -> float:
    """Return a Kubernetes CPU quantity in cores: ``500m`` is 0.5.

    The schema has checked that it is one.
    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if quantity.endswith(suffix):
            return float(quantity.removesuffix(suffix)) * _SUFFIXES[suffix]
    return float(quantity)


def threads(resources: ResourceConfig | None, replicas: int) -> int:
    """Return how many threads a replica computes with: its CPU request, or else its share of the machine."""
    available = os.cpu_count() or 1
    if resources is None or resources.cpu_request is None:
        return max(1, available // replicas)
    return max(1, min(math.ceil(cores(resources.cpu_request)), available))
