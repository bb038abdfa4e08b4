"""Images per second of training on the device that is here, beside forward and backward of the same network alone.

The whole loop of ``hhrnet train`` runs on synthetic people: reading, augmentation, targets, copy, losses, Adam. Beside
it: the network, a plain squared loss and its gradients on one batch that lies on the device; and the loader alone,
which may be what limits the loop. Loop and plain take turns; medians. Prints JSON, then a table for
docs/gpu-results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from reporting import machine, table

from hhrnet_deploy.model.presets import find_preset
from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.arithmetic import autocast_type, fastest_kernels
from hhrnet_deploy.train.batches import RunBatches, load_batches, normalise, split_batch
from hhrnet_deploy.train.distributed import World, joined
from hhrnet_deploy.train.recipe import Recipe, Source, Synthetic
from hhrnet_deploy.train.records import StepRecord, ValidationRecord
from hhrnet_deploy.train.samples import TrainingSet
from hhrnet_deploy.train.sources import open_training_sources
from hhrnet_deploy.train.start import start_network

# The first records hold the start of the loading processes and cuDNN's choice of kernels.
_WARM_RECORDS = 2
_STEPS_A_RECORD = 4


class Rates:
    """Keeps the speed of every record of a run."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def stepped(self, record: StepRecord) -> None:
        """Keep it."""
        self.found.append(record.images_per_second)

    def validated(self, record: ValidationRecord) -> None:
        """Nothing is validated here."""

    def closed(self) -> None:
        """Nothing to close."""


def recipe_of(options: argparse.Namespace, precision: str) -> Recipe:
    """What is timed: one pass over as many images as the steps take."""
    steps = (options.records + _WARM_RECORDS) * _STEPS_A_RECORD
    drawn = Source(synthetic=Synthetic(images=options.images, seed=7, short_side=options.crop))
    return Recipe(
        preset=options.preset,
        sources=(drawn.model_copy(update={"repeat": -(-steps * options.batch // options.images)}),),
        crop=options.crop,
        epochs=1,
        global_batch=options.batch,
        images_per_device=options.batch,
        precision=precision,
        channels_last=precision != "fp32",
        workers=options.workers,
        log_steps=_STEPS_A_RECORD,
        fresh="he",
    )


def loop_rate(recipe: Recipe) -> list[float]:
    """Images per second of each record of a whole run."""
    rates = Rates()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, TrainingOptions(Path(folder) / "run"), watchers=(rates,), say=lambda _: None)
    return rates.found[_WARM_RECORDS:]


def loader_rate(recipe: Recipe, world: World) -> float:
    """Images per second that the loader makes when nobody trains."""
    samples = TrainingSet(open_training_sources(recipe.sources, lambda _: None), recipe)
    split = split_batch(recipe.global_batch, recipe.images_per_device, 1)
    batches = RunBatches(len(samples), recipe, split, rank=0)
    loader = load_batches(samples, batches, pin=world.device.type == "cuda")
    for _ in range(_WARM_RECORDS * _STEPS_A_RECORD):
        next(loader)
    started = time.perf_counter()
    count = sum(1 for _ in loader)
    return count * recipe.global_batch / (time.perf_counter() - started)


def plain_rates(recipe: Recipe, world: World, steps: int) -> list[float]:
    """Images per second of forward and backward on one batch on the device."""
    network, _ = start_network(find_preset(recipe.preset), fresh="he")
    network.to(world.device).train()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    pixels = torch.randint(0, 256, (recipe.global_batch, 3, recipe.crop, recipe.crop), dtype=torch.uint8)
    pixels = pixels.to(world.device)
    kind = autocast_type(recipe.precision, world.device)

    def step() -> None:
        network.zero_grad()
        with fastest_kernels():
            with torch.autocast(world.device.type, kind, enabled=kind is not None):
                coarse, fine = network(normalise(pixels).contiguous(memory_format=layout))
            torch.autograd.backward(coarse.float().square().mean() + fine.float().square().mean())

    with _settled(world):
        for _ in range(2):
            step()
    found = []
    for _ in range(steps):
        with _settled(world) as clock:
            for _ in range(_STEPS_A_RECORD):
                step()
        found.append(_STEPS_A_RECORD * recipe.global_batch / clock[0])
    return found


@contextmanager
def _settled(world: World) -> Iterator[list[float]]:
    """Wall-clock seconds, in a list of one, from an idle device to an idle device."""
    clock = [0.0]
    _wait(world)
    started = time.perf_counter()
    yield clock
    _wait(world)
    clock[0] = time.perf_counter() - started


def _wait(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def row(options: argparse.Namespace, precision: str, world: World) -> dict[str, Any]:
    """The three rates of one precision."""
    recipe = recipe_of(options, precision)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    loops: list[float] = []
    plains: list[float] = []
    for _ in range(options.rounds):
        plains += plain_rates(recipe, world, options.records)
        loops += loop_rate(recipe)
    loop, plain = statistics.median(loops), statistics.median(plains)
    return {
        "preset": recipe.preset,
        "crop": recipe.crop,
        "batch": recipe.global_batch,
        "precision": precision,
        "loop_images_per_second": round(loop, 2),
        "plain_images_per_second": round(plain, 2),
        "overhead": round(plain / loop - 1, 3),
        "loader_images_per_second": round(loader_rate(recipe, world), 1),
        "gpu_memory_gib": round(_peak(world) / 2**30, 2),
    }


def _peak(world: World) -> int:
    return torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else 0


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="w32_512")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--images", type=int, default=240, help="synthetic images to draw; they repeat")
    parser.add_argument("--records", type=int, default=4, help=f"how many times {_STEPS_A_RECORD} steps are timed")
    parser.add_argument("--rounds", type=int, default=2, help="how often plain and loop take turns")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--precisions", default="fp32,bf16,fp16")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    with joined() as world:
        rows = [row(options, precision, world) for precision in options.precisions.split(",")]
        print(json.dumps({"machine": machine(), "torch": torch.__version__, "training": rows}, indent=1))
        print(f"\n{machine()}, torch {torch.__version__}, {world.device}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
