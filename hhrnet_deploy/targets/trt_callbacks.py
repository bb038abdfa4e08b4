"""What TensorRT calls back while it builds: a logger that keeps what matters, a monitor that shows and cancels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

Report = Callable[[float, str], None]

_KEPT_ERRORS = 5


@dataclass
class Log:
    """What a build said.

    Attributes:
        errors: the last lines of severity error or worse.
        layers: the verbose lines that list the layers of the engine.
    """

    errors: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def keep(self, message: str, *, error: bool) -> None:
        """Take one line; most of them are dropped."""
        if error:
            self.errors = [*self.errors, message.strip()][-_KEPT_ERRORS:]
        elif ", LayerType: " in message:
            self.layers += [line for line in message.splitlines() if line.startswith("Name: ")]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """The share of the build that is done, from TensorRT's nested phases; and the wish to stop."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Have the build stop at its next step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins inside ``parent``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
        self._tell(name)

    def step(self, name: str, number: int) -> bool:
        """Step ``number`` of a phase is complete; whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = number + 1
        self._tell(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase ended."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        with self._lock:
            roots = [key for key, phase in self._phases.items() if phase.parent not in self._phases]
            share = sum(self._share_of(root) for root in roots) / max(1, len(roots))
            # Later phases announce themselves late: a bar that goes back would only puzzle.
            self._share = share = max(self._share, min(1.0, share))
        self._report(share, name)

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        inside = [self._share_of(key) for key, other in self._phases.items() if other.parent == name and key != name]
        return min(1.0, (phase.done + sum(inside) / max(1, len(inside))) / phase.steps)


def make_logger(trt: Any, log: Log) -> Any:
    """An ``ILogger`` of that module; everything goes to ``log``, nothing is printed."""
    return _logger_class(trt)(log)


def make_monitor(trt: Any, progress: Progress) -> Any:
    """An ``IProgressMonitor`` of that module that passes everything on to ``progress``."""
    return _monitor_class(trt)(progress)


@cache
def _logger_class(trt: Any) -> Any:
    severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self, log: Log) -> None:
            trt.ILogger.__init__(self)
            self._log = log

        def log(self, severity: Any, message: str) -> None:
            self._log.keep(message, error=severity in severe)

    return Logger


@cache
def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, progress: Progress) -> None:
            trt.IProgressMonitor.__init__(self)
            self._progress = progress

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            self._progress.finish(phase_name)

    return Monitor
