"""What is wrong with a command as it was typed, and what to type instead."""

import typer


class UsageError(typer.BadParameter):
    """A command as it was typed cannot be run; nothing was changed.

    Attributes:
        hint: what to type instead, in a sentence of its own; empty if the command's help says it best.
    """

    def __init__(self, message: str, *, hint: str = "", option: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self._option = option

    def format_message(self) -> str:
        """Return what is wrong, with the option or the argument that it is about."""
        if self._option:
            return f"Invalid value for '{self._option}': {self.message}"
        return super().format_message() if self.param is not None else self.message
