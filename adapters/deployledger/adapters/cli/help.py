"""Plain help: commands in groups, options in two columns, examples; no boxes, at any width.

A command's help is its docstring. Its section ``Examples:`` has command lines as they are typed.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from deployledger.adapters.cli.option_groups import expanded

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LONGEST_CHOICES = 20
_NARROW = 70
_CONTINUED = " \\"
_OPTION = re.compile(r" (?=--?[a-z])")
_EXAMPLES = "\n\nExamples:\n"


class Commands(typer.Typer):
    """A group of commands with such help, which is also printed if there is no command."""

    def __init__(self, *, name: str, help: str, **options: Any) -> None:
        is_help = not options.get("invoke_without_command")
        super().__init__(
            cls=Group, name=name, help=help, rich_markup_mode=None, no_args_is_help=is_help, **options
        )

    def command(self, *arguments: Any, **options: Any) -> Callable[[_Function], _Function]:
        """Return what registers a function as a command; it may have groups of options."""
        register = super().command(*arguments, cls=Command, **options)

        def with_groups(function: _Function) -> _Function:
            register(expanded(function))
            return function

        return with_groups


class _WithPlainHelp:
    help: str | None
    params: list[Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for option in self.params:
            if isinstance(option, TyperOption) and option.metavar is None and not option.is_flag:
                choices = "|".join(_choices(option))
                is_short = 0 < len(choices) <= _LONGEST_CHOICES
                option.metavar = choices if is_short else option.opts[-1].rpartition("-")[2].upper()

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first paragraph, whole."""
        return " ".join(_parts(self.help)[0].partition("\n\n")[0].split())


class Command(_WithPlainHelp, TyperCommand):
    """A command."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what is typed behind the command, what is required first."""
        pieces = []
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                name = _spelled(parameter) + ("..." if parameter.nargs != 1 else "")
                pieces.append(name if parameter.required else f"[{name}]")
            elif parameter.required:
                pieces.append(_spelled(parameter))
        return [*pieces, "[OPTIONS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_usage(self, ctx, formatter)
        if examples := examples_of(self):
            with formatter.section(_heading("Examples")):
                for example in examples:
                    _write_example(formatter, example)
        _write_parameters(formatter, self.get_params(ctx))


class Group(_WithPlainHelp, TyperGroup):
    """A group of commands, those of each of its panels under one heading."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what is typed behind the group."""
        return ["COMMAND", "[OPTIONS]"]

    def panels(self) -> dict[str, dict[str, str]]:
        """Return the first sentence of each command by its name, by panel."""
        panels: dict[str, dict[str, str]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            if not command.hidden:
                panels.setdefault(panel, {})[name] = command.get_short_help_str()
        return panels

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_usage(self, ctx, formatter)
        widest = max(map(len, self.commands), default=0)
        for panel, commands in self.panels().items():
            with formatter.section(_heading(panel)):
                formatter.write_dl([(name.ljust(widest), text) for name, text in commands.items()])
        _write_parameters(formatter, self.get_params(ctx))
        formatter.write_paragraph()
        if self.epilog:
            formatter.write_text(self.epilog)
        formatter.write_text(f"Run `{ctx.command_path} COMMAND --help` for a command's options and examples.")


def examples_of(command: Any) -> list[str]:
    """Return the command lines that a command's help gives as examples."""
    return [" ".join(line.split()) for line in _parts(command.help)[1].splitlines() if line.strip()]


def _parts(text: str | None) -> tuple[str, str]:
    description, _, examples = inspect.cleandoc(text or "").partition(_EXAMPLES)
    return description, examples


def _write_usage(command: Command | Group, context: Any, formatter: Any) -> None:
    formatter.write_text(_parts(command.help)[0])
    with formatter.section(_heading("Usage")):
        pieces = " ".join(command.collect_usage_pieces(context))
        formatter.write_usage(context.command_path, pieces, prefix="")


def _write_example(formatter: Any, example: str) -> None:
    """Write a command line; one that is too long continues below, so that it can still be pasted."""
    indent = " " * formatter.current_indent
    line, *pieces = _OPTION.split(example)
    for piece in pieces:
        if len(f"{indent}{line} {piece}{_CONTINUED}") > formatter.width:
            formatter.write(f"{indent}{line}{_CONTINUED}\n")
            line = f"    {piece}"
        else:
            line = f"{line} {piece}"
    formatter.write(f"{indent}{line}\n")


def _write_parameters(formatter: Any, parameters: Sequence[Any]) -> None:
    shown = [parameter for parameter in parameters if not getattr(parameter, "hidden", False)]
    for heading, kind in (("Arguments", TyperArgument), ("Options", TyperOption)):
        rows = [
            (_spelled(parameter, is_whole=True), _explained(parameter))
            for parameter in shown
            if isinstance(parameter, kind)
        ]
        if rows:
            with formatter.section(_heading(heading)):
                formatter.write_dl(rows, col_max=30 if formatter.width >= _NARROW else 22)


def _spelled(parameter: Any, *, is_whole: bool = False) -> str:
    """Return how a parameter is typed, by all of its names or by the first."""
    if isinstance(parameter, TyperArgument):
        return parameter.metavar or parameter.name.upper()
    names = parameter.opts[0]
    if is_whole:
        names = " / ".join([", ".join(sorted(parameter.opts, key=len)), *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


def _explained(parameter: TyperOption | TyperArgument) -> str:
    choices = _choices(parameter)
    notes = [
        f"one of: {', '.join(choices)}" if choices and parameter.metavar != "|".join(choices) else "",
        "required" if parameter.required and isinstance(parameter, TyperOption) else "",
        f"default: {default}" if (default := _default(parameter)) else "",
    ]
    return " ".join([parameter.help or "", *(f"[{note}]" for note in notes if note)]).strip()


def _choices(parameter: TyperOption | TyperArgument) -> list[str]:
    # Earlier releases of Typer have the types of click.
    kind = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    return [str(getattr(choice, "value", choice)) for choice in getattr(kind, "choices", None) or ()]


def _default(parameter: TyperOption | TyperArgument) -> str:
    """Return the default in words."""
    default = parameter.default
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if not parameter.show_default or default is None or default is False or callable(default):
        return ""
    if default is True:
        return parameter.opts[0].removeprefix("--")
    return str(getattr(default, "value", default))


def _heading(text: str) -> str:
    return typer.style(text, bold=True)
