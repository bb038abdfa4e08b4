"""``python run_recipe.py RECIPE FOLDER [--resume] [--die-at STEP] [--terminate-at STEP]``: a run in its own process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.recipe import load_recipe
from hhrnet_deploy.train.records import StepRecord, ValidationRecord


class _Killer:
    """SIGKILL to this process at one step; SIGTERM to it and the process that launched it at another."""

    def __init__(self, die_at: int, terminate_at: int) -> None:
        self.die_at = die_at
        self.terminate_at = terminate_at

    def stepped(self, record: StepRecord) -> None:
        if record.step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if record.step == self.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getppid(), signal.SIGTERM)

    def validated(self, record: ValidationRecord) -> None:
        del record

    def closed(self) -> None:
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    steps = [
        int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else -1 for name in ("--die-at", "--terminate-at")
    ]
    options = TrainingOptions(folder=Path(sys.argv[2]), resume="--resume" in sys.argv)
    train(load_recipe(sys.argv[1]), options, watchers=(_Killer(*steps),))
