"""The building blocks of HRNet: residual blocks and the module that exchanges between resolutions.

Attribute names are those of the official state dict (pose_higher_hrnet.py:27-239). Batch normalisation inside residual
blocks, stem and deconvolution has momentum 0.1, which is also PyTorch's default, so one setting serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from hhrnet_deploy.model.architecture import BASIC_EXPANSION, BOTTLENECK_EXPANSION, Stage

BN_MOMENTUM = 0.1


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias that keeps (or, with stride 2, halves) the resolution."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as everywhere in this network."""
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)


def _shortcut(inputs: int, outputs: int) -> nn.Module | None:
    return None if inputs == outputs else nn.Sequential(conv1x1(inputs, outputs), norm(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; (N, inputs, H, W) -> (N, planes, H, W)."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes)
        self.bn1 = norm(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * BASIC_EXPANSION)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + residual)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual connection; (N, inputs, H, W) -> (N, 4 planes, H, W)."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = norm(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.conv3 = conv1x1(planes, planes * BOTTLENECK_EXPANSION)
        self.bn3 = norm(planes * BOTTLENECK_EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * BOTTLENECK_EXPANSION)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + residual)
        return result


def residual_chain(kind: Literal["BASIC", "BOTTLENECK"], inputs: int, planes: int, count: int) -> nn.Sequential:
    """``count`` residual blocks in a row; the first adapts the number of channels."""
    if kind == "BASIC":
        following = planes * BASIC_EXPANSION
        return nn.Sequential(*(BasicBlock(following if n else inputs, planes) for n in range(count)))
    following = planes * BOTTLENECK_EXPANSION
    return nn.Sequential(*(Bottleneck(following if n else inputs, planes) for n in range(count)))


def _up(source: int, target: int, inputs: int, outputs: int) -> nn.Sequential:
    factor = float(2 ** (source - target))
    return nn.Sequential(conv1x1(inputs, outputs), norm(outputs), nn.Upsample(scale_factor=factor, mode="nearest"))


def _down(steps: int, inputs: int, outputs: int) -> nn.Sequential:
    halvings = [
        nn.Sequential(conv3x3(inputs, inputs, stride=2), norm(inputs), nn.ReLU(inplace=True)) for _ in range(steps - 1)
    ]
    return nn.Sequential(*halvings, nn.Sequential(conv3x3(inputs, outputs, stride=2), norm(outputs)))


def _exchange(source: int, target: int, widths: Sequence[int]) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return _up(source, target, widths[source], widths[target])
    return _down(target - source, widths[source], widths[target])


class HighResolutionModule(nn.Module):
    """Parallel branches of residual blocks, then every resolution receives the sum of all.

    Args:
        stage: widths, depths and block of the branches.
        inputs: channels entering each branch.
        multi_scale_output: whether all resolutions leave, or only the highest.
    """

    def __init__(self, stage: Stage, inputs: Sequence[int], *, multi_scale_output: bool) -> None:
        super().__init__()
        plan = zip(inputs, stage.channels, stage.blocks, strict=True)
        self.branches = nn.ModuleList(residual_chain(stage.block, *branch) for branch in plan)
        targets = stage.branches if multi_scale_output else 1
        # The official module has no exchange, and no ReLU after it, when there is a single branch.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(source, target, stage.widths) for source in range(stage.branches))
            for target in range(targets if stage.branches > 1 else 0)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """One tensor per branch in, one per resolution out; branch b has H / 2^b x W / 2^b."""
        x = [branch(value) for branch, value in zip(self.branches, x, strict=True)]
        return [self._fused(row, x) for row in self.fuse_layers] if len(self.fuse_layers) else x

    def _fused(self, row: nn.Module, x: list[Tensor]) -> Tensor:
        terms = [exchange(value) for exchange, value in zip(row.children(), x, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        result: Tensor = self.relu(total)
        return result
