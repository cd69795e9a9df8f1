"""Writes the pages, pictures and stubs that are generated from the code, or checks that they are true.

python -m docs.generate          writes them
python -m docs.generate --check  fails, and names them, if they differ from the code
"""

import argparse
import sys
from pathlib import Path
from typing import Any, cast

from rich.text import Text
from typer.main import get_command

from deployledger.adapters.cli.app import app as cli
from deployledger.adapters.cli.help import Group
from deployledger.domain.lifecycle import LIFECYCLE
from deployledger.domain.lifecycle_chart import markdown
from docs import batch_types, event_reference, layers, public_api
from docs.pictures import pictures

DOCS = Path(__file__).parent
_WIDTH = 100


def pages() -> dict[Path, str]:
    """Return the generated pages."""
    return {
        DOCS / "lifecycle.md": markdown(LIFECYCLE),
        DOCS / "event-reference.md": event_reference.markdown(),
        DOCS / "api.md": public_api.markdown(),
        DOCS / "architecture.md": layers.with_drawing(DOCS / "architecture.md"),
        DOCS / "cli.md": _command_line(),
        DOCS / "batch-types.md": batch_types.markdown(),
        **public_api.stubs(),
        **{DOCS / "pictures" / name: picture for name, picture in pictures().items()},
    }


def _command_line() -> str:
    """Return the help of all commands, in the groups that it has on a terminal."""
    app = cast("Group", get_command(cli))
    context = app.make_context("deployledger", [], resilient_parsing=True, terminal_width=_WIDTH)
    page = ["# The command line", "", app.help or ""]
    for panel, names in app.panels().items():
        page += ["", f"## {panel}", ""]
        page += [f"* [`{name}`](#deployledger-{name}): {text}" for name, text in names.items()]
    for panel in app.panels().values():
        for name in panel:
            page += _pages_of(app.commands[name], name, context)
    return "\n".join(page) + "\n"


def _pages_of(command: Any, name: str, parent: Any) -> list[str]:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=_WIDTH)
    help_text = Text.from_ansi(command.get_help(context)).plain
    page = ["", f"## deployledger {context.command_path.partition(' ')[2]}", "", "```text", help_text, "```"]
    for child, subcommand in getattr(command, "commands", {}).items():
        page += _pages_of(subcommand, child, context)
    return page


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
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
