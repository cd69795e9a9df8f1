"""Writes the pages of the documentation that are generated from the code, or checks that they are true.

python -m docs.generate          writes them
python -m docs.generate --check  fails, and names them, if they differ from the code
"""

import argparse
import subprocess
import sys
from pathlib import Path

from deployledger.domain.lifecycle import LIFECYCLE
from deployledger.domain.lifecycle_chart import markdown

DOCS = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Return the generated pages."""
    reference = subprocess.run(
        [
            Path(sys.executable).with_name("typer"),
            "deployledger.adapters.cli.app",
            "utils",
            "docs",
            "--name",
            "deployledger",
            "--title",
            "The command line",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {DOCS / "lifecycle.md": markdown(LIFECYCLE), DOCS / "cli.md": reference.rstrip() + "\n"}


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a page is not true")
    check = parser.parse_args().check
    stale = [path for path, page in pages().items() if not path.exists() or path.read_text() != page]
    if check and stale:
        names = ", ".join(str(path.relative_to(DOCS.parent)) for path in stale)
        sys.stderr.write(f"{names}: not what the code says. Run `python -m docs.generate`.\n")
        return 1
    for path in stale:
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
