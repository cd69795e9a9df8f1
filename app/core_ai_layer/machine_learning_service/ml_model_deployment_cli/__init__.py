"""The command line's entry point of earlier installations; it is in `deployledger.app`."""

from deployledger.app.command_line import main

__all__ = ["main"]
