"""``--help`` of every command: prose that fits any width, and examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app


def _commands(level: typer.Typer, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in level.registered_commands:
        assert command.callback is not None
        yield (*before, command.name or command.callback.__name__.replace("_", "-").strip("-"))
    for group in level.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, (*before, str(group.typer_instance.info.name)))


@pytest.mark.parametrize("words", list(_commands(app)), ids=" ".join)
def test_prose_flows_and_examples_can_be_copied(words: tuple[str, ...]) -> None:
    """On a very wide terminal each paragraph is one line, and each example."""
    done = CliRunner().invoke(app, [*words, "--help"], terminal_width=1000, env={"COLUMNS": "1000"})
    assert done.exit_code == 0
    prose, _, examples = done.stdout.partition("╭")[0].partition(" Examples:")
    paragraphs = [line for line in prose.splitlines() if line.strip()]
    assert [line.strip() for line in paragraphs if not line.rstrip().endswith((".", "]", "}", "..."))] == []
    shown = [line.strip() for line in examples.splitlines() if line.strip()]
    assert shown
    assert all(line.startswith(("hhrnet ", "torchrun ")) for line in shown)
