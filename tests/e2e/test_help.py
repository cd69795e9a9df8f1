"""Help on a terminal: groups, examples, and lines that hold at any width."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from rich.text import Text
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from deployledger.adapters.cli.app import app
from deployledger.adapters.cli.help import Group, examples_of
from tests.e2e.in_process import InProcess

ROOT: Any = get_command(app)


def commands(group: Any = ROOT, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return InProcess("sqlite://", monkeypatch)


def test_commands_are_in_groups_with_a_sentence_each(cli: InProcess) -> None:
    assert isinstance(ROOT, Group)
    panels = ROOT.panels()
    assert list(panels) == ["Deploy", "Inspect", "History", "Audit", "Operate"]
    shown = cli.run("--help").stdout
    for panel, commands in panels.items():
        assert f"\n{panel}:\n" in shown
        for name, sentence in commands.items():
            assert re.search(rf"^  {name} +{re.escape(sentence.split()[0])}", shown, re.MULTILINE)


def test_every_command_has_examples_that_parse() -> None:
    for path, command in COMMANDS.items():
        sentence = command.get_short_help_str()
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert "..." not in sentence
        examples = examples_of(command)
        assert examples, path
        for example in examples:
            program, *words = shlex.split(example.partition(" > ")[0])
            assert [program, *words[: len(path)]] == ["deployledger", *path]
            with ROOT.make_context(program, [], resilient_parsing=True) as context:
                parsed = command.make_context(path[-1], words[len(path) :], parent=context)
            assert parsed.args == [], example


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_breaks_no_name_at_any_width(width: int) -> None:
    for path, command in COMMANDS.items():
        with ROOT.make_context(
            "deployledger", [], resilient_parsing=True, terminal_width=width - 2
        ) as parent:
            context = command.make_context(
                path[-1], [], parent=parent, resilient_parsing=True, terminal_width=width - 2
            )
        shown = Text.from_ansi(command.get_help(context)).plain
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width, path
        assert not re.search(r"<\w+>|\{|\[\[|│", shown), path
        for option in command.params:
            if isinstance(option, TyperOption) and not option.hidden:
                spelled = [*sorted(option.opts, key=len)[-1:], *([] if option.is_flag else [option.metavar])]
                assert any(" ".join(map(str, spelled)) in line for line in lines), option.name


def test_help_is_as_wide_as_the_terminal(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        done = cli.run("deploy", "--help")
        assert (done.exit_code, done.stderr) == (0, "")
        assert min(width, 100) - 12 <= max(map(len, done.stdout.splitlines())) <= width


def test_without_a_command_it_says_what_to_do_first(cli: InProcess) -> None:
    done = cli.run()
    assert done.exit_code == 2
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Deploy:", "Inspect:", "Learn:"]
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_a_group_without_a_command_shows_its_help(cli: InProcess) -> None:
    done = cli.run("db")
    assert (done.exit_code, done.stdout) == (2, cli.run("db", "--help").stdout)
    assert "  upgrade  " in done.stdout


def test_choices_that_are_long_are_below_their_option(cli: InProcess) -> None:
    shown = " ".join(cli.run("list", "--help").stdout.split())
    assert "--status STATUS Filter by status. [one of: creating, updating, active, failed" in shown
    assert re.search(r"-o, --output table\|\S+ ", shown)


def test_a_value_that_is_no_choice_is_refused_with_the_choices_on_a_line(cli: InProcess) -> None:
    for arguments, message in {
        ("list", "--sort", "size"): "Error: Invalid value for '--sort': 'size' is not one of 'created_at', ",
        ("completion",): "Error: Missing argument 'SHELL'. Choose from: bash, zsh, fish",
        ("lst",): "Error: No such command 'lst'. Did you mean 'list'?",
    }.items():
        done = cli.run(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(message)
