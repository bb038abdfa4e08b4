"""Training targets on their way from the loading processes to the device.

As `Targets` one image of 512 pixels has 5.9 MB of them, nearly all 0; packed about 0.2 MB. That is what is copied
between processes, into page-locked memory and to the device, which fills in the zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hhrnet_deploy.train.losses import Targets


class SparseMaps(NamedTuple):
    """Maps that are 0 nearly everywhere.

    Attributes:
        shape: of all maps, (N, K, H, W).
        places: (M,) int64, positions in the flattened maps, each at most once.
        values: (M,) float32, what is there.
    """

    shape: tuple[int, ...]
    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, maps: Sequence[npt.NDArray[np.float32]]) -> SparseMaps:
        """The maps of N images, each (K, H, W), without their zeros."""
        found = [np.flatnonzero(each != 0) for each in maps]  # ten times as fast as of floats
        values = [each.reshape(-1)[place] for each, place in zip(maps, found, strict=True)]
        places = [place + number * each.size for number, (each, place) in enumerate(zip(maps, found, strict=True))]
        together = torch.from_numpy(np.concatenate(places).astype(np.int64, copy=False))
        return cls((len(maps), *maps[0].shape), together, torch.from_numpy(np.concatenate(values)))

    def dense(self, device: torch.device) -> Tensor:
        """(N, K, H, W) float32 on ``device``, the same numbers."""
        places, values = (part.to(device, non_blocking=True) for part in (self.places, self.values))
        maps = torch.zeros(self.shape, device=device)
        maps.view(-1).index_copy_(0, places, values)
        return maps

    def pin_memory(self) -> SparseMaps:
        """The same in page-locked memory."""
        return SparseMaps(self.shape, self.places.pin_memory(), self.values.pin_memory())


class PackedTargets(NamedTuple):
    """`Targets`, smaller.

    Attributes:
        coarse_heat, fine_heat: the Gaussians.
        coarse_mask, fine_mask: (N, H/4, W/4) and (N, H/2, W/2) bool, False where the heat loss does not look.
        tag_index, tag_visible: as in `Targets`.
    """

    coarse_heat: SparseMaps
    fine_heat: SparseMaps
    coarse_mask: Tensor
    fine_mask: Tensor
    tag_index: Tensor
    tag_visible: Tensor

    def to(self, device: torch.device) -> Targets:
        """What the losses take, on ``device``; copied while other work goes on where the memory is pinned."""
        masks = (mask.to(device, non_blocking=True).float() for mask in (self.coarse_mask, self.fine_mask))
        tags = (part.to(device, non_blocking=True) for part in (self.tag_index, self.tag_visible))
        return Targets(self.coarse_heat.dense(device), self.fine_heat.dense(device), *masks, *tags)

    def pin_memory(self) -> PackedTargets:
        """The same in page-locked memory."""
        return PackedTargets._make(part.pin_memory() for part in self)
