"""Small networks and files for the tests of the model room."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hhrnet_deploy.model.architecture import Architecture, Deconv, Stage
from hhrnet_deploy.model.presets import Preset
from hhrnet_deploy.skeletons import COCO

TINY = Architecture(
    stage2=Stage(modules=1, blocks=(1, 1), channels=(8, 8)),
    stage3=Stage(modules=1, blocks=(1, 1, 1), channels=(8, 8, 12)),
    stage4=Stage(modules=2, blocks=(1, 1, 1, 1), channels=(8, 8, 12, 16)),
    deconv=Deconv(channels=8, blocks=1),
)
"""The published layout in small."""

ODD = Architecture(
    stage2=Stage(modules=2, block="BOTTLENECK", blocks=(1, 2), channels=(4, 8)),
    stage3=Stage(modules=1, block="BOTTLENECK", blocks=(2, 1, 1), channels=(4, 8, 12)),
    stage4=Stage(modules=2, blocks=(1, 1, 2, 1), channels=(16, 32, 48, 20)),
    deconv=Deconv(channels=24, kernel=3, blocks=0, cat_output=False),
    final_kernel=3,
)
"""Every option that the published models leave at its usual value."""

TINY_PRESET = Preset(name="tiny", architecture=TINY, short_side=64, skeleton=COCO)


def _pattern(shape: torch.Size, phase: float) -> Tensor:
    count = math.prod(shape)
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7310585 + phase).reshape(shape)


def patterned_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from a formula, the same on every machine and for every PyTorch, that keep activations near 1."""
    filled: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(state.items()):
        wave = _pattern(tensor.shape, 0.37 * number)
        if name.endswith("num_batches_tracked"):
            filled[name] = torch.tensor(number)
            continue
        if tensor.ndim == 4:
            value = wave * math.sqrt(2 / math.prod(tensor.shape[1:]))
        elif name.endswith("running_var") or name.endswith("weight"):
            value = 1 + 0.3 * wave
        else:
            value = 0.2 * wave
        filled[name] = value.float()
    return filled


def patterned_images(batch: int, height: int, width: int) -> Tensor:
    """(N, 3, H, W) float32 images from a formula."""
    return _pattern(torch.Size((batch, 3, height, width)), 0.1).float()


def listing_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and shapes in order."""
    lines = "".join(f"{name} {list(tensor.shape)}\n" for name, tensor in state.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def shape_only_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tensors of these shapes that take no room, in memory or in a file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
