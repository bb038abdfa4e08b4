"""What a network costs: parameters and multiply-adds, counted on shapes alone (no weights, no arithmetic)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from hhrnet_deploy.model.architecture import Architecture
from hhrnet_deploy.model.network import HigherHRNet

_TILE = 32
"""The smallest input: its side at the lowest resolution is one pixel."""


@dataclass(frozen=True)
class Cost:
    """The size of a network for one square image.

    Attributes:
        parameters: learnable numbers.
        multiply_adds: multiply-adds of all convolutions, for one forward pass without flip test.
        multiply_adds_as_published: the same with the transposed convolution counted at its output's resolution instead
            of its input's, four times over, as the official README's "GFLOPs" do.
    """

    parameters: int
    multiply_adds: int
    multiply_adds_as_published: int


def cost_of(architecture: Architecture, num_joints: int, side: int) -> Cost:
    """Count parameters and multiply-adds for a ``side`` x ``side`` input, ``side`` a multiple of 32.

    The network is fully convolutional, so its multiply-adds grow with the number of pixels exactly.
    """
    tile = _cost_of_tile(architecture, num_joints)
    tiles = (side // _TILE) ** 2
    return Cost(tile.parameters, tile.multiply_adds * tiles, tile.multiply_adds_as_published * tiles)


@cache
def _cost_of_tile(architecture: Architecture, num_joints: int) -> Cost:
    with torch.device("meta"):
        network = HigherHRNet(architecture, num_joints).eval()
        image = torch.empty(1, 3, _TILE, _TILE)
    counter = _Counter()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(counter)
    with torch.inference_mode():
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.true, counter.published)


class _Counter:
    """Forward hook: a convolution applies its kernel once per output pixel, a transposed one once per input pixel."""

    def __init__(self) -> None:
        self.true = 0
        self.published = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weights = module.get_parameter("weight").numel()
        at_output = weights * _pixels(output)
        self.published += at_output
        self.true += weights * _pixels(inputs[0]) if isinstance(module, nn.ConvTranspose2d) else at_output


def _pixels(maps: Tensor) -> int:
    return maps.shape[0] * maps.shape[2] * maps.shape[3]
