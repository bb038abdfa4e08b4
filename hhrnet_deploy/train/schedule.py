"""The learning rate as a function of how far the run is."""

from __future__ import annotations

import math

from hhrnet_deploy.train.recipe import Optimiser


def learning_rate(options: Optimiser, *, step: int, epoch: int, progress: float) -> float:
    """The rate for an optimiser step.

    Args:
        options: the recipe's.
        step: steps done so far.
        epoch: epochs done so far.
        progress: part of the run that is done, 0 to 1; by steps, or by the clock with a time budget.
    """
    warm = min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else 1.0
    if options.schedule == "steps":
        passed = sum(epoch >= milestone for milestone in options.milestones)
        return warm * options.lr * 0.1**passed
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return warm * (options.final_lr + (options.lr - options.final_lr) * fall)
