"""Which images make up which step, and how they reach the device."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.signals import children_spared, unhandled
from hhrnet_deploy.train.failures import dead_workers_named
from hhrnet_deploy.train.handover import Handover
from hhrnet_deploy.train.losses import Targets
from hhrnet_deploy.train.packed import PackedTargets, SparseMaps
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.samples import Example, Ticket, TrainingSet

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """The images one device takes at once.

    Attributes:
        names: N image files, for messages.
        images: (N, 3, crop, crop) uint8 RGB, in channels_last memory.
        targets: what the network should say; the loader packs it.
    """

    names: list[str]
    images: Tensor
    targets: PackedTargets | Targets

    def on(self, device: torch.device) -> tuple[Tensor, Targets]:
        """Images and targets on ``device``."""
        return self.images.to(device, non_blocking=True), self.targets.to(device)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; called by the loader."""
        return Batch(self.names, self.images.pin_memory(), self.targets.pin_memory())


def normalise(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32, /255, mean and standard deviation of ImageNet; memory format kept."""
    mean = torch.tensor(_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std


def collate(examples: list[Example | InputError]) -> Batch | InputError:
    """Stack examples; people are padded with invisible ones. The first error, if any, is passed on."""
    good = [example for example in examples if isinstance(example, Example)]
    if len(good) < len(examples):
        return next(example for example in examples if isinstance(example, InputError))
    most = max(len(example.tag_index) for example in good)
    joints = good[0].coarse_heat.shape[0]
    index = np.zeros((len(good), most, joints), np.int64)
    visible = np.zeros((len(good), most, joints), np.bool_)
    for row, example in enumerate(good):
        people = len(example.tag_index)
        index[row, :people] = example.tag_index
        visible[row, :people] = example.tag_visible
    images = torch.from_numpy(np.stack([example.image for example in good])).permute(0, 3, 1, 2)
    return Batch(
        [example.name for example in good],
        images,
        PackedTargets(
            coarse_heat=SparseMaps.of([example.coarse_heat for example in good]),
            fine_heat=SparseMaps.of([example.fine_heat for example in good]),
            coarse_mask=_stacked([example.coarse_mask for example in good]),
            fine_mask=_stacked([example.fine_mask for example in good]),
            tag_index=torch.from_numpy(index),
            tag_visible=torch.from_numpy(visible),
        ),
    )


def _stacked(masks: list[npt.NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack([mask > 0 for mask in masks]))


@dataclass(frozen=True)
class Split:
    """How a step's images are shared out.

    Attributes:
        global_batch: images of one optimiser step.
        ranks: devices.
        micro_batch: images one device takes at once.
        accumulation: how often, before the optimiser steps.
    """

    global_batch: int
    ranks: int
    micro_batch: int
    accumulation: int


def split_batch(global_batch: int, images_per_device: int, ranks: int) -> Split:
    """Share the recipe's global batch out over ``ranks`` devices, at most ``images_per_device`` at once.

    Raises:
        InputError: the batch cannot be shared out evenly.
    """
    per_rank, rest = divmod(global_batch, ranks)
    if rest or per_rank == 0:
        raise InputError(
            f"The global batch of {global_batch} images cannot be shared evenly by {ranks} processes.",
            hint="Start another number of processes or change global_batch with --set.",
        )
    micro = next(size for size in range(min(images_per_device, per_rank), 0, -1) if per_rank % size == 0)
    return Split(global_batch, ranks, micro, per_rank // micro)


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Optimiser steps in an epoch: whole batches only (the order changes every epoch); one for a tiny data set."""
    return max(1, samples // global_batch)


def epoch_order(samples: int, steps: int, global_batch: int, *, seed: int, epoch: int) -> list[int]:
    """``steps * global_batch`` sample numbers: a new permutation every epoch, repeated where the set is too small."""
    order = np.random.default_rng((seed, epoch)).permutation(samples)
    return np.resize(order, steps * global_batch).tolist()


class RunBatches(Sampler[list[Ticket]]):
    """The micro-batches of one rank from a given step to the end of the run.

    Micro-batch a of step s holds the images s * G + a * (R * m) + r * m and the m - 1 after it, so that the images that
    the R ranks see at the same time are those one process with R times the micro-batch would see.

    Args:
        samples: how many there are in an epoch.
        recipe: its seed and number of epochs.
        split: how a step is shared out.
        rank: whose batches.
        epoch, step: where to begin.
    """

    def __init__(self, samples: int, recipe: Recipe, split: Split, *, rank: int, epoch: int = 0, step: int = 0) -> None:
        self.samples = samples
        self.recipe = recipe
        self.split = split
        self.rank = rank
        self.epoch = epoch
        self.step = step

    def __iter__(self) -> Iterator[list[Ticket]]:
        first_step = self.step
        for epoch in range(self.epoch, self.recipe.epochs):
            yield from self._of_epoch(epoch, first_step)
            first_step = 0

    def _of_epoch(self, epoch: int, first_step: int) -> Iterator[list[Ticket]]:
        split = self.split
        steps = steps_per_epoch(self.samples, split.global_batch)
        order = epoch_order(self.samples, steps, split.global_batch, seed=self.recipe.seed, epoch=epoch)
        start = first_step * split.global_batch + self.rank * split.micro_batch
        for position in range(start, len(order), split.ranks * split.micro_batch):
            yield [Ticket(epoch, number) for number in order[position : position + split.micro_batch]]


def load_batches(samples: TrainingSet, batches: RunBatches, *, pin: bool) -> Generator[Batch | InputError]:
    """The micro-batches of the whole run, which depend on seed, epoch and step only, not on the number of workers.

    Workers are fresh interpreters: forking a process that has used torch and OpenCV can crash or hang the child.
    Signals are the main process's business: it finishes its step and writes the checkpoint. A worker that died of one
    would take it along; one whose main process is gone ends by itself.

    Raises:
        HHRNetError: a worker died.
    """
    workers = samples.recipe.workers
    loader: DataLoader[Batch | InputError] = DataLoader(
        Handover(samples) if workers else samples,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_settle_in,
        generator=torch.Generator().manual_seed(0),
    )
    with children_spared(signal.SIGINT, signal.SIGTERM):
        loaded = iter(loader)
    try:
        # torch's handler reports a dead worker wherever the main thread is, and raises there; inside of torch.save that
        # ends the process. Without it, waiting for a batch finds the death within seconds.
        with unhandled(signal.SIGCHLD), dead_workers_named():
            yield from loaded
    finally:
        if workers:
            # Not left to the end of its life: a traceback can hold on to it until Python exits, which sends the workers
            # SIGTERM and waits for them without end.
            loaded._shutdown_workers()  # type: ignore[attr-defined]


def _settle_in(_worker: int) -> None:
    """One thread: there are as many workers as the recipe wants processors."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
