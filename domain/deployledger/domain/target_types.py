"""The types of deployment targets. The help of the command line lists them, so this imports nothing slow."""

from typing import Literal, get_args

TargetType = Literal["api_service", "batch_inference_job", "edge_device"]
"""A server that answers requests, a job that scores a file once, or an edge device."""

TARGET_TYPES: tuple[TargetType, ...] = get_args(TargetType)

BATCH_JOB: TargetType = "batch_inference_job"
