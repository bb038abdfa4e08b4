"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch

from hhrnet_deploy.model.checkpoint import LoadedModel


class MovingAverage:
    """Exponential moving average of all floating-point parameters and buffers.

    The decay starts low, ``(1 + n) / (10 + n)`` after n updates, so that the first weights are soon forgotten.

    Args:
        network: whose weights to follow, on its device and in its memory layout already; its copy is ``average``,
            always in eval mode.
        decay: the final decay.
    """

    def __init__(self, network: LoadedModel, decay: float) -> None:
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        # Collected once: that takes longer than an update. All tensors stay where they are.
        mine, theirs = list(self.average.state_dict().values()), list(network.state_dict().values())
        self._mine = [tensor for tensor in mine if tensor.is_floating_point()]
        self._theirs = [tensor for tensor in theirs if tensor.is_floating_point()]
        self._my_counters = [tensor for tensor in mine if not tensor.is_floating_point()]
        self._their_counters = [tensor for tensor in theirs if not tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._mine, self._theirs, 1 - decay)
        torch._foreach_copy_(self._my_counters, self._their_counters)
