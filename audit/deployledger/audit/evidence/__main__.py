"""Verifies evidence: ``python -m deployledger.audit.evidence EVIDENCE.zip --key OWNER.pub``."""

import sys

from deployledger.audit.evidence.command_line import main

if __name__ == "__main__":
    sys.exit(main())
