"""One process or many: who this process is, and batch normalisation over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hhrnet_deploy.errors import HHRNetError, InputError


@dataclass(frozen=True)
class World:
    """This process among the others.

    Attributes:
        rank: 0 to ranks - 1; rank 0 writes files and prints.
        ranks: how many processes train together.
        device: where this one computes.
    """

    rank: int
    ranks: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all processes, on each of them."""
        if self.ranks == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.ranks

    def agree(self, value: float) -> float:
        """Rank 0's value, on every process."""
        if self.ranks == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared.item())

    def wait(self) -> None:
        """Go on when all processes are here.

        Raises:
            HHRNetError: one of them ended instead.
        """
        if self.ranks == 1:
            return
        try:
            dist.barrier()
        except RuntimeError as error:
            raise HHRNetError(
                "Another process of this training ended early.", hint="Its own message says why."
            ) from error


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone; nccl on GPUs, gloo on CPUs.

    Without an error none leaves before all are done.

    Raises:
        InputError: more processes were started here than there are GPUs.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"Process {local_rank + 1} of this machine has no GPU: there are {torch.cuda.device_count()}.",
                hint="Start one process for each GPU: torchrun --nproc_per_node gpu ...",
            )
        torch.cuda.set_device(device)
    if ranks == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=2))
    world = World(dist.get_rank(), ranks, device)
    try:
        yield world
        # A thread of gloo may still hold the tensor of the last reduction and needs the interpreter to let go of it.
        # Left behind, it aborts the process when the interpreter ends; behind a barrier it has let go.
        world.wait()
    finally:
        dist.destroy_process_group()


def synchronise_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation use the images of all processes.

    torch's SyncBatchNorm runs on GPUs only; on CPUs ``GlobalBatchNorm2d`` computes the same.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, GlobalBatchNorm2d.like(child))
    return network


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training statistics come from the images of all processes; any device."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> GlobalBatchNorm2d:
        """The same normalisation, sharing its parameters and buffers."""
        twin = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        twin.load_state_dict(norm.state_dict())
        twin.weight, twin.bias = norm.weight, norm.bias
        twin.running_mean, twin.running_var = norm.running_mean, norm.running_var
        twin.num_batches_tracked = norm.num_batches_tracked
        return twin.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (N, C, H, W) features."""
        if not self.training or not dist.is_initialized():
            return super().forward(features)
        wide = features.double() if features.dtype == torch.float64 else features.float()
        normalised, mean, variance, count = _GlobalNormalise.apply(wide, self.eps)  # type: ignore[no-untyped-call]
        self._remember(mean, variance, count)
        scaled: Tensor = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Update the running statistics with the unbiased variance, as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)


class _GlobalNormalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) with mean and variance over all processes (Ioffe & Szegedy 2015, section 3)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, float]:
        axes = (0, 2, 3)
        sums = torch.stack([features.sum(axes), torch.full_like(features[0, :, 0, 0], features[:, 0].numel())])
        dist.all_reduce(sums)
        count = float(sums[1, 0])
        mean = sums[0] / count
        centred = features - mean[:, None, None]
        squares = centred.square().sum(axes)
        dist.all_reduce(squares)
        variance = squares / count
        inverse = torch.rsqrt(variance + eps)
        normalised = centred * inverse[:, None, None]
        ctx.save_for_backward(normalised, inverse)
        ctx.count = count
        ctx.mark_non_differentiable(mean, variance)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_statistics: Any) -> tuple[Tensor, None]:
        normalised, inverse = ctx.saved_tensors
        axes = (0, 2, 3)
        sums = torch.stack([gradient.sum(axes), (gradient * normalised).sum(axes)])
        dist.all_reduce(sums)
        mean_gradient, mean_product = (sums / ctx.count)[:, :, None, None]
        return (gradient - mean_gradient - normalised * mean_product) * inverse[:, None, None], None
