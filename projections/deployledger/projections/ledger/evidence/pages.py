"""The texts that go with evidence: what it is, how it is verified, and what it supports."""

from pathlib import Path
from string import Template

from deployledger.projections.ledger.evidence.manifest import BOUNDS, Selection

COMMANDS = """python -m pip install cryptography
python -m pip install --no-deps PACKAGE
deployledger-verify-evidence EVIDENCE.zip --key OWNER.pub
"""
"""How an auditor verifies evidence, with nothing else of the service installed."""

PACKAGE = """PACKAGE is deployledger: its wheel, or a folder with its source. Get it from who gave you this,
or build it from source, and compare its SHA-256 with one that you got on another way. What a public index
has under that name need not be it."""
"""Where what verifies comes from: who could put another program in its place could let it say anything."""

_BOUNDS = (
    f"| `{BOUNDS}` | the events right before and behind the range, without their contents: they show that "
    "none was left out at its ends |\n"
)


def text(name: str) -> str:
    """Return one of the texts that are kept as files."""
    return Path(__file__).with_name("texts").joinpath(name).read_text(encoding="utf-8")


def readme(selection: Selection, origin: str, limits: tuple[str, ...]) -> str:
    """Return what the evidence is, and how it is verified."""
    what = (
        f"Every event that was recorded about deployment `{selection.deployment_id}`, up to the checkpoint."
        if selection.deployment_id is not None
        else f"This is {selection}."
    )
    return Template(text("README.md")).substitute(
        origin=origin,
        what=what,
        bounds=_BOUNDS if selection.is_range else "",
        commands=COMMANDS,
        package=PACKAGE,
        limits="\n".join(f"- {it}" for it in limits),
    )


def mapping() -> str:
    """Return what of the evidence supports which requirement."""
    return text("MAPPING.md")
