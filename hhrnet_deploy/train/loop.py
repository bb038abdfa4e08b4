"""The training loop: epochs, checkpoints, validation."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.model.checkpoint import LoadedModel, save_weights
from hhrnet_deploy.train.batches import Batch, RunBatches, Split, load_batches, split_batch, steps_per_epoch
from hhrnet_deploy.train.distributed import World
from hhrnet_deploy.train.failures import full_memory_named
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.records import StepRecord, ValidationRecord, Watcher
from hhrnet_deploy.train.samples import TrainingSet
from hhrnet_deploy.train.schedule import learning_rate
from hhrnet_deploy.train.start import training_mode
from hhrnet_deploy.train.state import Learner, save_state
from hhrnet_deploy.train.step import Stepper, grouped

STATE_FILE = "state.pt"
BEST_FILE = "best.safetensors"
FINAL_FILE = "final.safetensors"
_ECHO_SECONDS = 2.0
Validate = Callable[[LoadedModel, int], float | None]
"""AP, 0 to 1, of a network (a copy, in eval mode) at a step; None where nobody in the data counts."""


@dataclass
class _Tally:
    """Loss parts and time since the last record."""

    parts: Tensor
    steps: int = 0
    began: float = field(default_factory=time.monotonic)


@dataclass
class Run:
    """A training run.

    Attributes:
        recipe: what to do.
        samples: what to train on.
        learner: what learns; resumed or fresh.
        world: this process among the others.
        folder: where checkpoints and weights go.
        validate: AP of a network; None where there is nothing to validate on.
        watchers: who is told; used on rank 0 only.
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
        self._tally = self._new_tally()
        self._asked_to_stop = False

    def fit(self) -> bool:
        """Train to the end of the recipe, or until SIGTERM or SIGINT, after which the checkpoint is written.

        Returns:
            Whether the recipe is done.

        Raises:
            InputError: an image is missing or unreadable.
            NotANumberError: the loss is not finite any more.
            HHRNetError: the disk or memory is full, or a process that loads images died.
        """
        try:
            with self._stopping_gently(), closing(self._batches()) as batches:
                steps = grouped(batches, self.split.accumulation)
                while not self.done() and not self._asked_to_stop:
                    self._epoch(steps)
            if self.done() and self.world.leads:
                self._save_weights(FINAL_FILE)
            return self.done()
        finally:
            for watcher in self._listeners():
                watcher.closed()

    def done(self) -> bool:
        """Whether the recipe has come to its end."""
        return self.learner.position.epoch >= self.recipe.epochs or self.progress() >= 1

    def progress(self) -> float:
        """Part of the run that is done, 0 to 1, the same on every process."""
        position, recipe = self.learner.position, self.recipe
        if recipe.budget_minutes is None:
            # Not from all steps: a batch or data set changed on resume has other steps an epoch.
            return (position.epoch + min(position.step_in_epoch / self.steps, 1)) / recipe.epochs
        return self.world.agree(position.seconds) / (60 * recipe.budget_minutes)

    def save(self) -> None:
        """Write the checkpoint (rank 0)."""
        self._last_save = time.monotonic()
        if self.world.leads:
            save_state(self.folder / STATE_FILE, self.learner, self.recipe.model_dump(mode="json"))

    def _wrapped(self) -> nn.Module:
        network = self.learner.network
        if self.world.ranks == 1:
            return network
        on_gpu = self.world.device.type == "cuda"
        return DistributedDataParallel(
            network,
            device_ids=[self.world.device.index] if on_gpu else None,
            gradient_as_bucket_view=True,
        )

    def _batches(self) -> Generator[Batch | InputError]:
        """The micro-batches from here to the end of the run."""
        position, world = self.learner.position, self.world
        chosen = RunBatches(
            len(self.samples),
            self.recipe,
            self.split,
            rank=world.rank,
            epoch=position.epoch,
            step=position.step_in_epoch,
        )
        return load_batches(self.samples, chosen, pin=world.device.type == "cuda")

    def _epoch(self, steps: Iterator[list[Batch]]) -> None:
        position, recipe = self.learner.position, self.recipe
        training_mode(self.learner.network)
        while position.step_in_epoch < self.steps:
            progress = self.progress()
            if progress >= 1 or self._shall_stop():
                break
            rate = learning_rate(recipe.optimiser, step=position.step, epoch=position.epoch, progress=progress)
            step = next(steps)
            with full_memory_named(self.split.micro_batch, recipe.crop):
                parts = self.stepper.step(step, rate)
            self._advance(rate, parts)
        else:
            position.epoch, position.step_in_epoch = position.epoch + 1, 0
        self._pause()

    def _advance(self, rate: float, parts: Tensor) -> None:
        position = self.learner.position
        position.step += 1
        position.step_in_epoch += 1
        position.images += self.recipe.global_batch
        position.seconds = time.monotonic() - self._started
        self._tally.parts += parts
        self._tally.steps += 1
        if position.step % self.recipe.log_steps == 0:
            self._report(rate)
        if time.monotonic() - self._last_save >= 60 * self.recipe.checkpoint_minutes:
            self.save()

    def _new_tally(self) -> _Tally:
        return _Tally(torch.zeros(4, device=self.world.device))

    def _report(self, rate: float) -> None:
        tally, position = self._tally, self.learner.position
        parts = self.world.mean(tally.parts / tally.steps).tolist()
        elapsed = max(time.monotonic() - tally.began, 1e-9)
        record = StepRecord(
            step=position.step,
            epoch=position.epoch,
            images=position.images,
            seconds=position.seconds,
            lr=rate,
            loss=sum(parts),
            coarse_heat=parts[0],
            fine_heat=parts[1],
            push=parts[2],
            pull=parts[3],
            images_per_second=tally.steps * self.recipe.global_batch / elapsed,
            progress=self.progress(),
        )
        for watcher in self._listeners():
            watcher.stepped(record)
        self._tally = self._new_tally()

    def _pause(self) -> None:
        """Between two epochs: validate where it is time, and write the checkpoint."""
        position, recipe = self.learner.position, self.recipe
        due = position.step_in_epoch == 0 and position.epoch % recipe.validate_every == 0
        try:
            if self.validate is not None and (due or self.done()):
                self._validate(self.validate)
        finally:  # what was trained is not lost to what validation finds
            self.save()

    def _validate(self, validate: Validate) -> None:
        began = time.monotonic()
        position = self.learner.position
        if self.world.leads:
            # A copy: what validation does to memory layout and mode must not reach the weights that go on training.
            ap = validate(copy.deepcopy(self.learner.shown).eval(), position.step)
            if ap is not None:
                self._compare(ap)
        self.world.wait()
        self._started += time.monotonic() - began
        self._tally = self._new_tally()

    def _compare(self, ap: float) -> None:
        position = self.learner.position
        best = ap > position.best_ap
        if best:
            position.best_ap = ap
            self._save_weights(BEST_FILE)
        record = ValidationRecord(position.step, position.epoch, position.images, position.seconds, ap, best)
        for watcher in self._listeners():
            watcher.validated(record)

    def _save_weights(self, name: str) -> None:
        position = self.learner.position
        facts = {
            "recipe": self.recipe.model_dump(mode="json"),
            "steps": position.step,
            "images": position.images,
            "validation_ap": position.best_ap if position.best_ap >= 0 else None,
        }
        path = self.folder / name
        try:
            save_weights(self.learner.shown, path, dtype=torch.float32, metadata={"training": facts})
        except SafetensorError as error:  # what a full disk looks like through safetensors
            raise HHRNetError(
                f"The weights {path} could not be written: {error}.",
                hint="Free some space, then go on with --resume; the last checkpoint is whole.",
            ) from error

    def _listeners(self) -> list[Watcher]:
        return self.watchers if self.world.leads else []

    def _shall_stop(self) -> bool:
        if self.world.ranks > 1:
            # All processes leave at the same step, also one that the signal has not reached yet.
            self._asked_to_stop = self.world.agree(float(self._asked_to_stop)) > 0
        return self._asked_to_stop

    @contextmanager
    def _stopping_gently(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the step at hand and write the checkpoint; a second one ends at once.

        What comes within `_ECHO_SECONDS` is no second one: schedulers signal every process, and torchrun passes on what
        it got to its processes, which have it already.
        """
        first: float | None = None

        def ask(number: int, _frame: FrameType | None) -> None:
            nonlocal first
            self._asked_to_stop = True
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > _ECHO_SECONDS:
                for each, handler in before.items():
                    signal.signal(each, handler)
                signal.raise_signal(number)

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for number in before:
                signal.signal(number, ask)
        except ValueError:  # not the main thread: signals are somebody else's
            before.clear()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
