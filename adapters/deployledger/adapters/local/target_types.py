"""The types of targets that local processes can serve."""

from typing import Literal

LocalTargetType = Literal["api_service", "batch_inference_job"]
"""What this machine can make of a model."""
