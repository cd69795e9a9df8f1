"""Packages models as reproducible OCI images in an image layout on disk, and unpacks them again."""

from deployledger.adapters.oci.extraction import extract_model
from deployledger.adapters.oci.registry import OciLayoutRegistry

__all__ = ["OciLayoutRegistry", "extract_model"]
