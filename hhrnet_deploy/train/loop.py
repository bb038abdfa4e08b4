"""The training loop: epochs, checkpoints, validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hhrnet_deploy.train.batches import Split, epoch_loader, split_batch, steps_per_epoch
from hhrnet_deploy.train.distributed import World
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.samples import TrainingSet
from hhrnet_deploy.train.schedule import learning_rate
from hhrnet_deploy.train.state import Learner, save_state
from hhrnet_deploy.train.step import Stepper, StepResult, grouped

STATE_FILE = "state.pt"
Validate = Callable[[nn.Module], float]


class Watcher(Protocol):
    """Who is told what happens; only on rank 0."""

    def stepped(self, learner: Learner, rate: float, parts: torch.Tensor) -> None:
        """After every optimiser step; ``parts`` are the four loss parts on the device."""

    def validated(self, learner: Learner, ap: float, *, best: bool) -> None:
        """After a validation."""

    def saved(self, learner: Learner) -> None:
        """After a checkpoint."""


@dataclass
class Run:
    """A training run.

    Attributes:
        recipe: what to do.
        samples: what to train on.
        learner: what learns; resumed or fresh.
        world: this process among the others.
        folder: where the checkpoint goes.
        validate: AP of a network, 0 to 1; None where there is nothing to validate on.
        watchers: who is told.
    """

    recipe: Recipe
    samples: TrainingSet
    learner: Learner
    world: World
    folder: Path
    validate: Validate | None = None
    watchers: list[Watcher] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.split: Split = split_batch(self.recipe.global_batch, self.recipe.images_per_device, self.world.ranks)
        self.steps = steps_per_epoch(len(self.samples), self.recipe.global_batch)
        self.stepper = Stepper(self._wrapped(), self.learner, self.recipe, self.world.device)
        self._started = time.monotonic() - self.learner.position.seconds
        self._last_save = time.monotonic()

    def fit(self) -> None:
        """Train to the end of the recipe.

        Raises:
            InputError: an image is missing or unreadable.
            NotANumberError: the loss is not finite any more.
            HHRNetError: the disk is full.
        """
        position = self.learner.position
        while position.epoch < self.recipe.epochs and self.progress() < 1:
            self._epoch()

    def progress(self) -> float:
        """Part of the run that is done, 0 to 1, the same on every process."""
        position, recipe = self.learner.position, self.recipe
        if recipe.budget_minutes is None:
            return position.step / (self.steps * recipe.epochs)
        return self.world.agree(position.seconds) / (60 * recipe.budget_minutes)

    def _wrapped(self) -> nn.Module:
        network = self.learner.network
        if self.world.ranks == 1:
            return network
        on_gpu = self.world.device.type == "cuda"
        return DistributedDataParallel(
            network,
            device_ids=[self.world.device.index] if on_gpu else None,
            broadcast_buffers=not self.recipe.sync_bn,
            gradient_as_bucket_view=True,
        )

    def _epoch(self) -> None:
        position, recipe, world = self.learner.position, self.recipe, self.world
        loader = epoch_loader(
            self.samples,
            recipe,
            self.split,
            epoch=position.epoch,
            rank=world.rank,
            first_step=position.step_in_epoch,
            pin=world.device.type == "cuda",
        )
        self.learner.network.train()
        for batches in grouped(loader, self.split.accumulation):
            progress = self.progress()
            if progress >= 1:
                self._finish_epoch()
                return
            rate = learning_rate(recipe.optimiser, step=position.step, epoch=position.epoch, progress=progress)
            result = self.stepper.step(batches, rate)
            self._advance(rate, result)
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        self._finish_epoch()

    def _advance(self, rate: float, result: StepResult) -> None:
        position = self.learner.position
        position.step += 1
        position.step_in_epoch += 1
        position.images += self.recipe.global_batch
        position.seconds = time.monotonic() - self._started
        for watcher in self.watchers:
            watcher.stepped(self.learner, rate, result.parts)
        if time.monotonic() - self._last_save >= 60 * self.recipe.checkpoint_minutes:
            self.save()

    def _finish_epoch(self) -> None:
        position, recipe = self.learner.position, self.recipe
        over = position.epoch >= recipe.epochs or self.progress() >= 1
        if self.validate is not None and (over or position.epoch % recipe.validate_every == 0):
            self._validate()
        self.save()

    def _validate(self) -> None:
        position = self.learner.position
        if self.world.leads and self.validate is not None:
            ap = self.validate(self.learner.shown)
            best = ap > position.best_ap
            position.best_ap = max(ap, position.best_ap)
            for watcher in self.watchers:
                watcher.validated(self.learner, ap, best=best)
        self.world.wait()

    def save(self) -> None:
        """Write the checkpoint (rank 0)."""
        self._last_save = time.monotonic()
        if not self.world.leads:
            return
        recipe: dict[str, Any] = self.recipe.model_dump(mode="json")
        save_state(self.folder / STATE_FILE, self.learner, recipe)
        for watcher in self.watchers:
            watcher.saved(self.learner)
