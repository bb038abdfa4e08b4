"""What every command prints, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

log = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""


class Advance(Protocol):
    """Report progress: ``advance(done, note)``; ``done`` counts from the start."""

    def __call__(self, done: int, note: str = "") -> None:
        """``done`` items are finished; ``note`` is a short remark such as a loss."""


# Seconds between two progress lines in a log file.
_LINE_EVERY = 15.0


class _Lines:
    """Progress as plain lines, for logs: one every fifteen seconds."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._of = "" if total is None else f"/{total}"
        self._due = time.monotonic() + _LINE_EVERY

    def __call__(self, done: int, note: str = "") -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _LINE_EVERY
            info(f"{self._title} {done}{self._of} {note}".rstrip())


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """A bar with an ETA on stderr; a plain line every fifteen seconds where stderr is no terminal."""
    if not log.is_terminal:
        yield _Lines(title, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=log, transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield advance


def info(message: str) -> None:
    """A line for the person who watches, on stderr."""
    log.print(message, markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table on stdout; the first column is left-aligned, the others right-aligned."""
    grid = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*map(escape, row))
    out.print(grid)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def emit_json(document: Any) -> None:
    """Print ONE JSON document on stdout; NaN and infinities become null."""
    json.dump(_finite(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
