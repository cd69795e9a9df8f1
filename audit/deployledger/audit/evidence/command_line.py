"""The verifier as a program of its own, which needs nothing but the standard library and cryptography."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from deployledger.audit.evidence.archive import MOST_BYTES
from deployledger.audit.evidence.kept_checkpoints import EarlierState
from deployledger.audit.evidence.verification import EvidenceReport, as_json, verify_evidence
from deployledger.audit.keys import Verifier
from deployledger.audit.proofs import ConsistencyProof
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.visible import visible, visible_lines

_VERIFIED, _NOT_VERIFIED, _UNREADABLE = range(3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify evidence; return 0 if it is verified, 1 if it is not, 2 if it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="deployledger-verify-evidence",
        description="Verify a file of evidence. Exit code 0: verified; 1: not; 2: it cannot be read.",
    )
    parser.add_argument("file", type=Path, metavar="EVIDENCE.zip")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        action="append",
        metavar="OWNER.pub",
        help="the owner's public key, as the owner gave it to you; may be repeated after a change of keys",
    )
    parser.add_argument(
        "--earlier",
        type=Path,
        action="append",
        default=[],
        metavar="PLACE",
        help="a checkpoint, a folder of checkpoints, or evidence that you kept, which the log must continue; "
        "may be repeated",
    )
    parser.add_argument(
        "--consistency",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a consistency proof from an --earlier state, if the evidence has none; may be repeated",
    )
    parser.add_argument(
        "--most-bytes",
        type=int,
        default=MOST_BYTES,
        metavar="BYTES",
        help="how many bytes it may have when unpacked (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    chosen = parser.parse_args(arguments)
    try:
        report = verify_evidence(
            chosen.file,
            [Verifier.load(path) for path in chosen.key],
            earlier=[
                state for path in chosen.earlier for state in EarlierState.read_all(path, chosen.most_bytes)
            ],
            proofs=[ConsistencyProof.read(path) for path in chosen.consistency],
            most_bytes=chosen.most_bytes,
        )
    except MachineLearningServiceError as error:
        _print(visible_lines(str(error)), sys.stderr)
        return _UNREADABLE
    lines = json.dumps(as_json(report), indent=2) if chosen.json else "\n".join(_lines(report))
    _print(lines, sys.stdout)
    return _VERIFIED if report.is_verified else _NOT_VERIFIED


def _print(text: str, stream: TextIO | None) -> None:
    """Print a text, as far as the stream has its characters; if it fails, the exit code still tells."""
    if stream is None:  # it was closed when Python was started
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError:
        with suppress(OSError):  # or Python tries again at its end, and fails
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _lines(report: EvidenceReport) -> list[str]:
    lines = []
    if report.manifest is not None:
        lines.append(visible(f"Evidence of {report.manifest.selection}"))
    for check in report.checks:
        lines.append(f"{check.state.upper():<11}  {check.what} ({check.count:,} checked)")
        lines += [f"{'':<13}{visible(result)}" for result in (*check.results, *map(str, check.problems))]
        if check.problem_count > len(check.problems):
            lines.append(f"{'':<13}and {check.problem_count - len(check.problems):,} more")
    lines.append("VERIFIED" if report.is_verified else "NOT VERIFIED")
    lines.append("What it does not show:")
    lines += [f"- {limit}" for limit in report.limits]
    return lines
