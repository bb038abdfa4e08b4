"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch

from hhrnet_deploy.model.checkpoint import LoadedModel


class MovingAverage:
    """Exponential moving average of all floating-point parameters and buffers.

    The decay starts low, ``(1 + n) / (10 + n)`` after n updates, so that the first weights are soon forgotten.

    Args:
        network: whose weights to follow; its copy is ``average``, always in eval mode.
        decay: the final decay.
    """

    def __init__(self, network: LoadedModel, decay: float) -> None:
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: LoadedModel) -> None:
        """Take in the network's weights after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = self.average.state_dict(), network.state_dict()
        floating = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floating], [theirs[name] for name in floating], 1 - decay)
        for name in mine.keys() - set(floating):
            mine[name].copy_(theirs[name])
