"""How long steps of the pipeline tell how far they are; the command line hands in its console."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Note = Callable[[str], None]
# (items done, remark)
Advance = Callable[[int, str], None]
# (title, total or None) -> a bar, open as long as the block lasts.
Bar = Callable[[str, int | None], AbstractContextManager[Advance]]


def _ignore(done: int, note: str) -> None:
    del done, note


def bar_or_nothing(bar: Bar | None, title: str, total: int | None) -> AbstractContextManager[Advance]:
    """``bar(title, total)``, or something that ignores all reports."""
    return nullcontext(_ignore) if bar is None else bar(title, total)
