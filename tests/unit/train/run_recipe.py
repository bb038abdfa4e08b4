"""``python run_recipe.py RECIPE FOLDER [--resume] [--die-at STEP]``: a run in its own process, killed on demand."""

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
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, record: StepRecord) -> None:
        if record.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def validated(self, record: ValidationRecord) -> None:
        del record

    def closed(self) -> None:
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    die_at = int(sys.argv[sys.argv.index("--die-at") + 1]) if "--die-at" in sys.argv else -1
    options = TrainingOptions(folder=Path(sys.argv[2]), resume="--resume" in sys.argv)
    train(load_recipe(sys.argv[1]), options, watchers=(_Killer(die_at),))
