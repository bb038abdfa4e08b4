"""Help that fits the terminal's width instead of the source's."""

from __future__ import annotations

import inspect

import typer


def flow_help(app: typer.Typer) -> None:
    """Let every command of ``app``, and of its groups, show its docstring with each paragraph as one line.

    Typer keeps the line breaks of all paragraphs but the first; a narrower terminal then breaks each line twice.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            command.help = _flowing(inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow_help(group.typer_instance)


def _flowing(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else part.replace("\n", " ") for part in paragraphs)
