"""What a run writes down about itself: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from hhrnet_deploy.files import write_text

METRICS_FILE = "metrics.jsonl"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepRecord:
    """Means over the steps since the last record, over all processes.

    Attributes:
        step, epoch, images: where the run is.
        seconds: training time so far.
        lr: the learning rate of the last step.
        loss, coarse_heat, fine_heat, push, pull: the loss and its parts, factors included.
        images_per_second: over all processes.
        progress: part of the run that is done, 0 to 1.
    """

    step: int
    epoch: int
    images: int
    seconds: float
    lr: float
    loss: float
    coarse_heat: float
    fine_heat: float
    push: float
    pull: float
    images_per_second: float
    progress: float


@dataclass(frozen=True)
class ValidationRecord:
    """A validation: AP from 0 to 1, and whether it is the best so far."""

    step: int
    epoch: int
    images: int
    seconds: float
    ap: float
    best: bool


class Watcher(Protocol):
    """Who is told what happens; only on rank 0."""

    def stepped(self, record: StepRecord) -> None:
        """Told every few optimiser steps."""

    def validated(self, record: ValidationRecord) -> None:
        """Told after a validation."""

    def closed(self) -> None:
        """Told at the end, also after an error."""


class MetricsFile:
    """Appends every record to a JSON-lines file; on resuming, lines from after the checkpoint are dropped.

    Args:
        path: the file.
        step: the step the run starts from.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def stepped(self, record: StepRecord) -> None:
        """Append a line."""
        self._append(asdict(record))

    def validated(self, record: ValidationRecord) -> None:
        """Append a line."""
        self._append(asdict(record))

    def closed(self) -> None:
        """Nothing is held open."""

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file in order; none when it does not exist. A last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


class TensorBoardEvents:
    """Writes the same figures as TensorBoard events.

    Args:
        folder: where the event files go.
        step: the step the run starts from; later events of an earlier start are hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def stepped(self, record: StepRecord) -> None:
        """Add the loss parts, the learning rate and the speed."""
        for name in ("loss", "coarse_heat", "fine_heat", "push", "pull"):
            self._writer.add_scalar(f"loss/{name}", getattr(record, name), record.step)
        self._writer.add_scalar("run/learning_rate", record.lr, record.step)
        self._writer.add_scalar("run/images_per_second", record.images_per_second, record.step)

    def validated(self, record: ValidationRecord) -> None:
        """Add the AP."""
        self._writer.add_scalar("validation/AP", record.ap, record.step)
        self._writer.flush()

    def closed(self) -> None:
        """Write what is left."""
        self._writer.close()


def recorders(folder: Path, step: int) -> list[Watcher]:
    """The metrics file, and TensorBoard events where the package is installed (else one warning)."""
    found: list[Watcher] = [MetricsFile(folder / METRICS_FILE, step)]
    try:
        found.append(TensorBoardEvents(folder, step))
    except ImportError:
        _log.warning(
            "No TensorBoard events are written: the package tensorboard is not installed "
            "(pip install 'hhrnet-deploy[train]'). metrics.jsonl has the same figures."
        )
    return found
