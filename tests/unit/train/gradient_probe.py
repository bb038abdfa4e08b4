"""Run under torchrun or alone: gradients of one step on a fixed batch, written by rank 0.

``python gradient_probe.py OUT IMAGES_PER_DEVICE ACCUMULATION``; uses the loop's own pieces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.model.presets import Preset
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.train.batches import Batch, RunBatches, split_batch
from hhrnet_deploy.train.distributed import joined, synchronise_norms
from hhrnet_deploy.train.losses import Targets
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.state import Learner
from hhrnet_deploy.train.step import Stepper

GLOBAL_BATCH, CROP, PEOPLE = 8, 64, 3


def _fixed_batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    k, coarse, fine = 17, CROP // 4, CROP // 2
    images = torch.randint(0, 256, (GLOBAL_BATCH, 3, CROP, CROP), generator=generator, dtype=torch.uint8)
    # Different people per image: one process must not count them as if they were spread evenly.
    visible = torch.rand((GLOBAL_BATCH, PEOPLE, k), generator=generator) > 0.3
    visible[0, 1:] = False
    visible[5] = False
    return Batch(
        [str(number) for number in range(GLOBAL_BATCH)],
        images,
        Targets(
            torch.rand((GLOBAL_BATCH, k, coarse, coarse), generator=generator),
            torch.rand((GLOBAL_BATCH, k, fine, fine), generator=generator),
            (torch.rand((GLOBAL_BATCH, coarse, coarse), generator=generator) > 0.2).float(),
            (torch.rand((GLOBAL_BATCH, fine, fine), generator=generator) > 0.2).float(),
            torch.randint(0, k * coarse * coarse, (GLOBAL_BATCH, PEOPLE, k), generator=generator),
            visible,
        ),
    )


def main(out: Path, images_per_device: int) -> None:
    from train_world import TINY

    torch.set_num_threads(1)
    with joined() as world:
        torch.manual_seed(0)
        network = load_model(Preset(name="tiny", architecture=TINY, short_side=CROP, skeleton=COCO)).train()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                torch.nn.init.kaiming_normal_(module.weight)
        network.double()
        if world.ranks > 1:
            synchronise_norms(network, world.device)
        recipe = Recipe(preset="tiny", crop=CROP, global_batch=GLOBAL_BATCH, sync_bn=True, epochs=1)
        split = split_batch(GLOBAL_BATCH, images_per_device, world.ranks)
        # Plain descent, so that the step leaves the gradients as they were computed.
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
        learner = Learner(network, optimiser, torch.amp.GradScaler("cpu", enabled=False), None)
        model = network if world.ranks == 1 else DistributedDataParallel(network)
        whole = _fixed_batch()
        batches = []
        for tickets in RunBatches(GLOBAL_BATCH, recipe, split, rank=world.rank):
            rows = [ticket.number for ticket in tickets]
            targets = Targets._make(
                part[rows].double() if part.is_floating_point() else part[rows] for part in whole.targets
            )
            batches.append(Batch([whole.names[row] for row in rows], whole.images[rows], targets))
        parts = Stepper(lambda images: model(images.double()), learner, recipe, world.device).step(batches, 0.0)
        parts = world.mean(parts)
        if world.leads:
            gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
            buffers = dict(network.named_buffers())
            torch.save({"gradients": gradients, "buffers": buffers, "parts": parts}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
