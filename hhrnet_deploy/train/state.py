"""Checkpoints of a run: everything that has to come back for the run to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hhrnet_deploy.errors import CheckpointError, HHRNetError
from hhrnet_deploy.files import is_disk_full, replacing
from hhrnet_deploy.model.checkpoint import LoadedModel
from hhrnet_deploy.train.ema import MovingAverage
from hhrnet_deploy.train.optimiser import load_keeping_options

FORMAT = 1
_ANEW = "Begin a new run from the last weights: --init RUN/best.safetensors with another --output."


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch: the epoch it is in, from 0.
        step_in_epoch: optimiser steps done in this epoch.
        step: optimiser steps done in all.
        images: images seen in all.
        seconds: time spent training, over all starts.
        best_ap: the highest validation AP so far; below 0 before the first.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best_ap: float = -1.0


@dataclass
class Learner:
    """What learns.

    Attributes:
        network: the bare network, not wrapped for several processes.
        optimiser: over its parameters.
        scaler: of the loss, for fp16.
        average: the moving average of the weights, where the recipe wants one.
        position: where the run is.
    """

    network: LoadedModel
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    position: Position = field(default_factory=Position)

    @property
    def shown(self) -> LoadedModel:
        """The weights to validate and ship."""
        return self.network if self.average is None else self.average.average


def save_state(path: Path, learner: Learner, recipe: dict[str, Any]) -> None:
    """Write the run's checkpoint; the one before stays until the new one is whole.

    Raises:
        HHRNetError: the disk is full.
    """
    average = learner.average
    document = {
        "format": FORMAT,
        "recipe": recipe,
        "position": vars(learner.position),
        "network": learner.network.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": None if average is None else average.average.state_dict(),
        "average_updates": 0 if average is None else average.updates,
        "random": torch.get_rng_state(),
    }
    try:
        # Through a Python file: writing to a path, torch hides that the disk is full.
        with replacing(path) as temporary, temporary.open("wb") as stream:
            torch.save(document, stream)
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        raise HHRNetError(
            f"The checkpoint {path} could not be written: the disk is full.",
            hint="Free some space, then go on with --resume; the checkpoint before this one is whole.",
        ) from error


def load_state(path: Path, learner: Learner) -> dict[str, Any]:
    """Put a checkpoint's state into ``learner``; returns the recipe it was written with.

    Raises:
        CheckpointError: the file is missing, not a run's checkpoint, or of another network.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path} to resume from.") from error
    except Exception as error:
        raise CheckpointError(f"{path} is empty, cut off, or no checkpoint of a training run.", hint=_ANEW) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of a training run (format {FORMAT}).")
    try:
        return _load_parts(path, document, learner)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lacks a part of a checkpoint, or is damaged: {error}.", hint=_ANEW) from error


def _load_parts(path: Path, document: dict[str, Any], learner: Learner) -> dict[str, Any]:
    try:
        learner.network.load_state_dict(document["network"])
        if learner.average is not None:
            # An average that the run had not begins at what was trained so far.
            learner.average.average.load_state_dict(document["average"] or document["network"])
            learner.average.updates = int(document["average_updates"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another network: {error}.") from error
    try:
        load_keeping_options(learner.optimiser, document["optimiser"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} was written with another optimiser.",
            hint="Keep optimiser.kind and frozen as they were, or start a new run from these weights with --init.",
        ) from error
    if learner.scaler.is_enabled() and document["scaler"]:
        learner.scaler.load_state_dict(document["scaler"])
    learner.position = Position(**document["position"])
    torch.set_rng_state(document["random"])
    return dict(document["recipe"])
