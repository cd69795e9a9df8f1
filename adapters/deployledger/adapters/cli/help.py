"""Plain help: commands in groups, options in two columns, examples; no boxes, at any width.

A command's help is its docstring. Its section ``Examples:`` has command lines as they are typed.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LONGEST_CHOICES = 20
_NARROW = 70
_GOES_ON = " \\"
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
        """Return what registers a function as a command."""
        return super().command(*arguments, cls=Command, **options)


class Command(TyperCommand):
    """A command."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _name_values(self.params)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence, whole."""
        return _first_paragraph(self.help)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what is typed behind the command, what is required first."""
        return [*_required(self.params), "[OPTIONS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        text, examples = _parts(self.help)
        formatter.write_text(text)
        with formatter.section(_heading("Usage")):
            formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="")
        if examples:
            with formatter.section(_heading("Examples")):
                for example in examples:
                    _write_example(formatter, example)
        _write_parameters(formatter, self.get_params(ctx))


class Group(TyperGroup):
    """A group of commands, those of each of its panels under one heading."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _name_values(self.params)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence, whole."""
        return _first_paragraph(self.help)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what is typed behind the group."""
        return ["COMMAND", "[OPTIONS]"]

    def panels(self) -> dict[str, dict[str, str]]:
        """Return the first sentence of each command by its name, by panel."""
        found: dict[str, dict[str, str]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            if not command.hidden:
                found.setdefault(panel, {})[name] = command.get_short_help_str()
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write_text(_parts(self.help)[0])
        with formatter.section(_heading("Usage")):
            formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="")
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
    return _parts(command.help)[1]


def _parts(text: str | None) -> tuple[str, list[str]]:
    description, _, examples = inspect.cleandoc(text or "").partition(_EXAMPLES)
    return description, [" ".join(line.split()) for line in examples.splitlines() if line.strip()]


def _first_paragraph(text: str | None) -> str:
    return " ".join(_parts(text)[0].partition("\n\n")[0].split())


def _name_values(parameters: Sequence[Any]) -> None:
    """Set the metavars of options: their choices if those are short, else the option's last word."""
    for it in parameters:
        if isinstance(it, TyperOption) and it.metavar is None and not it.is_flag:
            choices = "|".join(_choices(it))
            is_short = choices and len(choices) <= _LONGEST_CHOICES
            it.metavar = choices if is_short else it.opts[-1].rpartition("-")[2].upper()


def _choices(parameter: TyperOption | TyperArgument) -> list[str]:
    # Earlier releases of Typer have the types of click.
    kind = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    return [str(getattr(it, "value", it)) for it in getattr(kind, "choices", None) or ()]


def _name(argument: TyperArgument) -> str:
    return argument.metavar or argument.name.upper()


def _required(parameters: Sequence[Any]) -> list[str]:
    pieces = []
    for it in parameters:
        if isinstance(it, TyperArgument):
            name = _name(it) + ("..." if it.nargs != 1 else "")
            pieces.append(name if it.required else f"[{name}]")
        elif it.required:
            pieces.append(f"{it.opts[0]} {it.metavar}")
    return pieces


def _write_example(formatter: Any, example: str) -> None:
    """Write a command line; one that is too long goes on below, so that it can still be pasted."""
    room = formatter.width - formatter.current_indent
    line, *pieces = _OPTION.split(example)
    for piece in pieces:
        if len(f"{line} {piece}") > room - len(_GOES_ON):
            formatter.write(f"{'':>{formatter.current_indent}}{line}{_GOES_ON}\n")
            line = f"    {piece}"
        else:
            line = f"{line} {piece}"
    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _write_parameters(formatter: Any, parameters: Sequence[Any]) -> None:
    arguments = [(_name(it), _explained(it)) for it in parameters if isinstance(it, TyperArgument)]
    options = [
        (_spelled(it), _explained(it)) for it in parameters if isinstance(it, TyperOption) and not it.hidden
    ]
    for heading, rows in (("Arguments", arguments), ("Options", options)):
        if rows:
            with formatter.section(_heading(heading)):
                formatter.write_dl(rows, col_max=30 if formatter.width >= _NARROW else 22)


def _spelled(option: TyperOption) -> str:
    short = sorted(option.opts, key=len)
    names = " / ".join([", ".join(short), *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar}"


def _explained(parameter: TyperOption | TyperArgument) -> str:
    choices = _choices(parameter)
    notes = [
        f"one of: {', '.join(choices)}" if choices and parameter.metavar != "|".join(choices) else "",
        "required" if parameter.required and isinstance(parameter, TyperOption) else "",
        f"default: {default}" if (default := _default(parameter)) else "",
    ]
    return " ".join([parameter.help or "", *(f"[{note}]" for note in notes if note)]).strip()


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
