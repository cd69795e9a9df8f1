"""The texts that go with evidence: what it is, how it is verified, and what it supports."""

from string import Template

from deployledger.audit.evidence.limits import limits
from deployledger.audit.evidence.manifest import BOUNDS, CONSISTENCY, VERSION, EvidenceSelection
from deployledger.audit.evidence.texts import text

COMMANDS = """python -m pip install cryptography
python -m pip install --no-deps PACKAGE
deployledger-verify-evidence EVIDENCE.zip --key OWNER.pub
"""
"""How an auditor verifies evidence, with nothing else of the service installed."""

PACKAGE = """PACKAGE is deployledger: its wheel, or a folder with its source. Get it from whoever gave you
this,
or build it from source, and compare its SHA-256 with one that you got through another channel. A
package of that name on a public index need not be the same."""
"""Where what verifies comes from: who could put another program in its place could let it say anything."""

_BOUNDS = (
    f"| `{BOUNDS}` | the leaves of the events right before and after the range, which prove when they "
    "were recorded, and thus that none was left out: their streams, topics, actors and ids, and only the "
    "SHA-256 of their stored states |\n"
)
_CONSISTENCY = f"| `{CONSISTENCY}` | for each earlier checkpoint, the proof that the log extends it |\n"


def readme(
    selection: EvidenceSelection, origin: str, *, is_continuing: bool = False, version: int = VERSION
) -> bytes:
    """Return what the evidence is, and how it is verified: the same bytes for ever, in each version."""
    what = (
        f"Every event that was recorded about deployment `{selection.deployment_id}`, up to the checkpoint."
        if selection.deployment_id is not None
        else f"This is {selection}."
    )
    if version == 1:
        kind = "range" if selection.is_range else "deployment"
        return Template(text(f"1/README-{kind}.md")).substitute(origin=origin, what=what).encode()
    return (
        Template(text("README.md"))
        .substitute(
            origin=origin,
            what=what,
            bounds=_BOUNDS if selection.is_range else "",
            consistency=_CONSISTENCY if is_continuing else "",
            commands=COMMANDS,
            package=PACKAGE,
            limits="\n".join(f"- {limit}" for limit in limits(selection)),
        )
        .encode()
    )


def mapping() -> bytes:
    """Return what of the evidence supports which requirement: the same bytes in every version."""
    return text("MAPPING.md").encode()
