"""Energy of a stretch of work, where the card tells."""

from __future__ import annotations

import shutil
import subprocess
import time
from types import TracebackType
from typing import Self

_PERIOD_MS = 100


class GpuEnergy:
    """Joules that the first NVIDIA card takes inside the block: mean of ``nvidia-smi``'s power samples times seconds.

    Attributes:
        joules: after the block; None without ``nvidia-smi``, without a sample, or on a card that does not tell.
    """

    def __init__(self) -> None:
        self.joules: float | None = None
        self._process: subprocess.Popen[str] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if shutil.which("nvidia-smi") is not None:
            query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--id=0"]
            self._process = subprocess.Popen(
                [*query, f"--loop-ms={_PERIOD_MS}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        if self._process is None:
            return
        self._process.terminate()
        text, _ = self._process.communicate()
        watts = [sample for line in text.splitlines() if (sample := _number(line)) is not None]
        if watts:
            self.joules = seconds * sum(watts) / len(watts)


def _number(line: str) -> float | None:
    try:
        return float(line)
    except ValueError:  # "[N/A]" on cards that do not tell
        return None
