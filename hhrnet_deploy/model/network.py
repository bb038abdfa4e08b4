"""HigherHRNet as a torch module, with the parameter names of the official state dict.

Source: Cheng et al., HigherHRNet (CVPR 2020), section 3 and figure 2; names and layout follow
``lib/models/pose_higher_hrnet.py`` of the official code, so that its files load with ``strict=True``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hhrnet_deploy.model.architecture import BOTTLENECK_EXPANSION, STEM_CHANNELS, Architecture, Deconv, Stage
from hhrnet_deploy.model.blocks import BasicBlock, HighResolutionModule, conv3x3, norm, residual_chain

INIT_STD = 0.001
# Kernel side -> (padding, output padding) that make a stride-2 transposed convolution exactly double the resolution.
_DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}


def _step(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(inputs, outputs, stride), norm(outputs), nn.ReLU(inplace=True))


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """How each branch of the next stage starts: kept, re-widthed, or halved from the lowest resolution so far."""
    rows: list[nn.Module] = []
    for branch, width in enumerate(after):
        if branch < len(before):
            rows.append(nn.Identity() if width == before[branch] else _step(before[branch], width, 1))
            continue
        halvings = branch + 1 - len(before)
        widths = [before[-1]] * halvings + [width]
        rows.append(nn.Sequential(*(_step(widths[n], widths[n + 1], 2) for n in range(halvings))))
    return nn.ModuleList(rows)


def _stage(stage: Stage, *, multi_scale_output: bool = True) -> nn.Sequential:
    last = stage.modules - 1
    return nn.Sequential(
        *(
            HighResolutionModule(stage, stage.widths, multi_scale_output=multi_scale_output or number < last)
            for number in range(stage.modules)
        )
    )


def _deconv(deconv: Deconv, inputs: int) -> nn.Sequential:
    padding, output_padding = _DECONV_PADDING[deconv.kernel]
    double = nn.ConvTranspose2d(
        inputs,
        deconv.channels,
        deconv.kernel,
        stride=2,
        padding=padding,
        output_padding=output_padding,
        bias=False,
    )
    blocks = (nn.Sequential(BasicBlock(deconv.channels, deconv.channels)) for _ in range(deconv.blocks))
    return nn.Sequential(nn.Sequential(double, norm(deconv.channels), nn.ReLU(inplace=True)), *blocks)


class HigherHRNet(nn.Module):
    """The network: normalised images in, heat maps and tags at 1/4, heat maps at 1/2 out.

    A new network is initialised as the official training does: convolutions N(0, 0.001), biases 0, batch
    normalisation 1 and 0 (pose_higher_hrnet.py:524-540).

    Args:
        architecture: widths, depths and kernels.
        num_joints: K.
    """

    def __init__(self, architecture: Architecture, num_joints: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_joints = num_joints
        self.conv1 = conv3x3(3, STEM_CHANNELS, stride=2)
        self.bn1 = norm(STEM_CHANNELS)
        self.conv2 = conv3x3(STEM_CHANNELS, STEM_CHANNELS, stride=2)
        self.bn2 = norm(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = residual_chain("BOTTLENECK", STEM_CHANNELS, STEM_CHANNELS, 4)

        stage2, stage3, stage4 = architecture.stages
        self.transition1 = _transition((STEM_CHANNELS * BOTTLENECK_EXPANSION,), stage2.widths)
        self.stage2 = _stage(stage2)
        self.transition2 = _transition(stage2.widths, stage3.widths)
        self.stage3 = _stage(stage3)
        self.transition3 = _transition(stage3.widths, stage4.widths)
        self.stage4 = _stage(stage4, multi_scale_output=False)

        width, deconv = stage4.widths[0], architecture.deconv
        kernel, padding = architecture.final_kernel, architecture.final_kernel // 2
        self.final_layers = nn.ModuleList(
            (
                nn.Conv2d(width, 2 * num_joints, kernel, padding=padding),
                nn.Conv2d(deconv.channels, num_joints, kernel, padding=padding),
            )
        )
        self.deconv_layers = nn.ModuleList(
            (_deconv(deconv, width + (2 * num_joints if deconv.cat_output else 0)),),
        )
        self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights: convolutions N(0, 0.001), biases 0, batch normalisation 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            images: (N, 3, H, W) float, RGB, /255, normalised by mean and standard deviation; H and W multiples of 32.

        Returns:
            ``coarse`` (N, 2K, H/4, W/4): K heat maps, then K tag maps; ``fine`` (N, K, H/2, W/2): heat maps.
        """
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches = self._branch(self.transition1, [x])
        branches = self._branch(self.transition2, self.stage2(branches))
        branches = self._branch(self.transition3, self.stage3(branches))
        x = self.stage4(branches)[0]
        coarse = self.final_layers[0](x)
        if self.architecture.deconv.cat_output:
            x = torch.cat((x, coarse), 1)
        fine = self.final_layers[1](self.deconv_layers[0](x))
        return coarse, fine

    @staticmethod
    def _branch(transition: nn.ModuleList, branches: list[Tensor]) -> list[Tensor]:
        """New branches start from the lowest resolution; the others go on."""
        present = len(branches)
        return [row(branches[number if number < present else -1]) for number, row in enumerate(transition)]
