"""Keeps models' files on the local disk, by what they contain: `LocalArtifactStore`."""

from deployledger.adapters.artifacts.store import LocalArtifactStore

__all__ = ["LocalArtifactStore"]
