"""One optimiser step: forward, losses, backward, over as many micro-batches as the global batch takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.train.arithmetic import autocast_type, fastest_kernels
from hhrnet_deploy.train.batches import Batch, normalise
from hhrnet_deploy.train.losses import LossFactors, LossParts, Targets, total_loss
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.state import Learner

# Of the loss, in fp16: below it after 31 skipped steps in a row from where PyTorch starts, 2^16.
_SMALLEST_SCALE = 2.0**-14


class NotANumberError(HHRNetError):
    """The loss or a gradient is no longer a finite number."""


@dataclass(frozen=True)
class Stepper:
    """Runs optimiser steps.

    Attributes:
        model: the network, wrapped for several processes where there are several.
        learner: the network, its optimiser and scaler.
        recipe: precision, memory format, factors.
        device: where to compute.
    """

    model: Callable[[Tensor], tuple[Tensor, Tensor]]
    learner: Learner
    recipe: Recipe
    device: torch.device

    def step(self, batches: list[Batch], rate: float) -> Tensor:
        """Take one step on ``batches`` (the accumulation) with learning rate ``rate``.

        Returns:
            (4,) the loss parts, means over this process's images, on the device.

        Raises:
            NotANumberError: a loss or gradient is not finite; the weights are those before the step.
        """
        learner = self.learner
        for group in learner.optimiser.param_groups:
            group["lr"] = rate
        learner.optimiser.zero_grad(set_to_none=True)
        names = [name for batch in batches for name in batch.names]
        parts = torch.zeros(4, device=self.device)
        for number, batch in enumerate(batches):
            with fastest_kernels(), self._gradients_stay_here(number < len(batches) - 1):
                losses = self._forward(*batch.on(self.device))
                torch.autograd.backward(learner.scaler.scale(losses.total() / len(batches)))
            parts += torch.stack([part.detach().float() for part in losses]) / len(batches)
        self._update(names, parts)
        return parts

    def _forward(self, pixels: Tensor, targets: Targets) -> LossParts:
        images = normalise(pixels)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        else:
            images = images.contiguous()
        with self._autocast():
            coarse, fine = self.model(images)
        options = self.recipe.loss
        factors = LossFactors(options.coarse_heat, options.fine_heat, options.push, options.pull, options.foreground)
        return total_loss(coarse, fine, targets, factors)

    def _autocast(self) -> AbstractContextManager[object]:
        kind = autocast_type(self.recipe.precision, self.device)
        return nullcontext() if kind is None else torch.autocast(self.device.type, kind)

    def _gradients_stay_here(self, more_to_come: bool) -> AbstractContextManager[object]:
        """Leave the exchange between processes to the last micro-batch."""
        if more_to_come and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def _update(self, names: list[str], parts: Tensor) -> None:
        learner = self.learner
        learner.scaler.unscale_(learner.optimiser)
        limit = self.recipe.optimiser.max_gradient_norm
        norm = nn.utils.clip_grad_norm_(learner.network.parameters(), limit if limit is not None else float("inf"))
        # With fp16 an overflow in the gradients is normal: the scaler skips the step and lowers the scale.
        sound = torch.isfinite(parts).all() & (torch.isfinite(norm) | learner.scaler.is_enabled())
        if not bool(sound):
            raise self._not_a_number(names, parts)
        learner.scaler.step(learner.optimiser)
        learner.scaler.update()
        if learner.scaler.is_enabled() and learner.scaler.get_scale() < _SMALLEST_SCALE:
            raise NotANumberError(
                f"The gradients are not finite at any scale of the loss; step {learner.position.step + 1} was the last "
                f"that was skipped for it. Its images: {', '.join(names)}.",
                hint="Train with --set precision=bf16 or fp32, or lower the learning rate with --set optimiser.lr=...",
            )
        if learner.average is not None:
            learner.average.update()

    def _not_a_number(self, names: list[str], parts: Tensor) -> NotANumberError:
        where = f"step {self.learner.position.step + 1}"
        values = [round(value, 6) for value in parts.tolist()]
        if isinstance(self.model, DistributedDataParallel) and bool(torch.isfinite(parts).all()):
            return NotANumberError(
                f"A gradient of {where} is not a finite number. This process's loss is (parts {values}): the cause is "
                f"with the process that reports another loss; where none does, it may be here: {', '.join(names)}.",
                hint="The last checkpoint is from before this step.",
            )
        return NotANumberError(
            f"The loss or a gradient of {where} is not a finite number (loss parts {values}). "
            f"Its images: {', '.join(names)}.",
            hint="The last checkpoint is from before this step. Look at these images and their annotations, "
            "or lower the learning rate with --set optimiser.lr=...",
        )


def grouped(batches: Iterable[Batch | InputError], accumulation: int) -> Iterator[list[Batch]]:
    """Collect the micro-batches of each step.

    Raises:
        InputError: an image could not be read.
    """
    group: list[Batch] = []
    for batch in batches:
        if isinstance(batch, InputError):
            raise batch
        group.append(batch)
        if len(group) == accumulation:
            yield group
            group = []
