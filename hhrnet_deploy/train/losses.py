"""The two losses of HigherHRNet, for a whole batch at once (SEMANTICS: training; loss.py of the official code)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LossFactors(NamedTuple):
    """What each part of the loss is multiplied with; the defaults are the official configuration's.

    ``foreground`` weighs each pixel's heat error with 1 + foreground * target: small networks leave the plateau of
    empty heat maps sooner.
    """

    coarse_heat: float = 1.0
    fine_heat: float = 1.0
    push: float = 1e-3
    pull: float = 1e-3
    foreground: float = 0.0


class LossParts(NamedTuple):
    """Scalars, each a mean over the batch and already multiplied with its factor; their sum is the loss."""

    coarse_heat: Tensor
    fine_heat: Tensor
    push: Tensor
    pull: Tensor

    def total(self) -> Tensor:
        """The loss to differentiate."""
        return self.coarse_heat + self.fine_heat + self.push + self.pull


def heat_loss(predicted: Tensor, target: Tensor, mask: Tensor, foreground: float = 0.0) -> Tensor:
    """Masked squared error, a mean over K, H and W including the masked pixels (loss.py:33-38).

    Args:
        predicted: (N, K, H, W) heat maps.
        target: (N, K, H, W) Gaussians.
        mask: (N, H, W), 1 where the error counts and 0 where it does not.
        foreground: extra weight of a pixel whose target is 1; the official loss has none.

    Returns:
        (N,), one value for each image.
    """
    error = (predicted - target).square() * mask[:, None]
    if foreground:
        error = error * (1 + foreground * target)
    return error.mean(dim=(1, 2, 3))


def tag_loss(tags: Tensor, index: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Associative embedding: joints of one person share a tag, people differ (loss.py:46-99, type 'exp').

    With t the tags at a person's visible joints, m_i their mean and n the people who have any: pull is the mean over
    people of the mean over joints of (t - m_i)^2, push is 0.5 * (sum over i, j of exp(-(m_i - m_j)^2) - n) / (n(n-1)).
    No visible person makes both 0, a single one makes push 0. Any number of people is fine.

    Args:
        tags: (N, K, H, W) tag maps.
        index: (N, P, K) int64, position of each joint in the flattened K*H*W tags; any valid one where not visible.
        visible: (N, P, K) bool, False for joints that do not count and for people added as padding.

    Returns:
        push and pull, each (N,).
    """
    batch, people, joints = index.shape
    if people == 0:
        zero = tags.flatten(1)[:, :1].sum(1) * 0
        return zero, zero
    read = tags.flatten(1).gather(1, index.flatten(1)).view(batch, people, joints)
    counted = visible.to(read.dtype)
    joint_count = counted.sum(2)
    present = (joint_count > 0).to(read.dtype)
    safe_count = joint_count.clamp(min=1)
    mean = (read * counted).sum(2) / safe_count
    spread = ((read - mean[:, :, None]).square() * counted).sum(2) / safe_count
    people_count = present.sum(1)
    pull = spread.sum(1) / people_count.clamp(min=1)
    closeness = torch.exp(-(mean[:, :, None] - mean[:, None, :]).square()) * (present[:, :, None] * present[:, None, :])
    pairs = (people_count * (people_count - 1)).clamp(min=1)
    several = (people_count > 1).to(read.dtype)
    push = several * 0.5 * (closeness.sum((1, 2)) - people_count) / pairs
    return push, pull


class Targets(NamedTuple):
    """What the network should have said about a batch.

    Attributes:
        coarse_heat, fine_heat: (N, K, H/4, W/4) and (N, K, H/2, W/2) float32 Gaussians.
        coarse_mask, fine_mask: (N, H/4, W/4) and (N, H/2, W/2) float32, 0 where the heat loss does not look.
        tag_index: (N, P, K) int64 positions in the flattened (K, H/4, W/4) tags; P is the most people of any image.
        tag_visible: (N, P, K) bool.
    """

    coarse_heat: Tensor
    fine_heat: Tensor
    coarse_mask: Tensor
    fine_mask: Tensor
    tag_index: Tensor
    tag_visible: Tensor

    def to(self, device: torch.device) -> Targets:
        """The same on ``device``; copied while other work goes on where the memory is pinned."""
        return Targets._make(part.to(device, non_blocking=True) for part in self)

    def pin_memory(self) -> Targets:
        """The same in page-locked memory."""
        return Targets._make(part.pin_memory() for part in self)


def total_loss(coarse: Tensor, fine: Tensor, targets: Targets, factors: LossFactors) -> LossParts:
    """Compute all parts of the loss of one batch, in float32 (or float64 for float64 heads) whatever autocast is on.

    Args:
        coarse: (N, 2K, H/4, W/4), heat maps then tags.
        fine: (N, K, H/2, W/2) heat maps.
        targets: what they should have been.
        factors: weights of the parts.
    """
    joints = fine.shape[1]
    wide = torch.float64 if fine.dtype == torch.float64 else torch.float32
    coarse, fine = coarse.to(wide), fine.to(wide)
    push, pull = tag_loss(coarse[:, joints:], targets.tag_index, targets.tag_visible)
    coarse_heat = heat_loss(coarse[:, :joints], targets.coarse_heat, targets.coarse_mask, factors.foreground)
    fine_heat = heat_loss(fine, targets.fine_heat, targets.fine_mask, factors.foreground)
    return LossParts(
        factors.coarse_heat * coarse_heat.mean(),
        factors.fine_heat * fine_heat.mean(),
        factors.push * push.mean(),
        factors.pull * pull.mean(),
    )
