"""The texts that go with evidence, and the templates of its report."""

from pathlib import Path


def text(name: str) -> str:
    """Return one of the texts that are kept as files."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
