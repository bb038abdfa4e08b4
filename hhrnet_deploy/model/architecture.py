"""What a HigherHRNet is made of, without torch: widths, depths, kernels.

The field names are this project's; ``model/official.py`` translates to and from the official configuration keys.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STEM_CHANNELS = 64
"""The official network fixes its stem to 64 channels (pose_higher_hrnet.py:245-252) whatever STEM_INPLANES says."""

BASIC_EXPANSION = 1
BOTTLENECK_EXPANSION = 4

Count = Annotated[int, Field(ge=1, le=4096)]


class Stage(BaseModel):
    """One stage: ``modules`` exchange units over parallel branches, each at half its neighbour's resolution.

    Attributes:
        modules: NUM_MODULES.
        block: BLOCK, the residual block of the branches.
        blocks: NUM_BLOCKS, blocks in each branch.
        channels: NUM_CHANNELS, the width of each branch before the block's expansion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modules: Count
    block: Literal["BASIC", "BOTTLENECK"] = "BASIC"
    blocks: tuple[Count, ...]
    channels: tuple[Count, ...]

    @model_validator(mode="after")
    def _one_entry_per_branch(self) -> Stage:
        if not self.channels:
            raise ValueError("a stage needs at least one branch")
        if len(self.blocks) != len(self.channels):
            raise ValueError(f"NUM_BLOCKS {list(self.blocks)} and NUM_CHANNELS {list(self.channels)} differ in length")
        return self

    @property
    def branches(self) -> int:
        """NUM_BRANCHES."""
        return len(self.channels)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that leave each branch: the width times the block's expansion."""
        expansion = BASIC_EXPANSION if self.block == "BASIC" else BOTTLENECK_EXPANSION
        return tuple(channels * expansion for channels in self.channels)


class Deconv(BaseModel):
    """The module that doubles the resolution from 1/4 to 1/2.

    Attributes:
        channels: its width.
        kernel: side of the transposed convolution's kernel; stride is 2.
        blocks: NUM_BASIC_BLOCKS after it.
        cat_output: CAT_OUTPUT, whether the coarse head's output is concatenated to its input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Count
    kernel: Literal[2, 3, 4] = 4
    blocks: Annotated[int, Field(ge=0, le=64)] = 4
    cat_output: bool = True


class Architecture(BaseModel):
    """A HigherHRNet with one deconvolution module and two heads, the family this project deploys.

    Attributes:
        stage2, stage3, stage4: the multi-resolution stages; stage 1 and the stem are fixed.
        deconv: the module from 1/4 to 1/2 of the input's resolution.
        final_kernel: FINAL_CONV_KERNEL, side of the heads' convolutions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage2: Stage
    stage3: Stage
    stage4: Stage
    deconv: Deconv
    final_kernel: Literal[1, 3] = 1

    @property
    def stages(self) -> tuple[Stage, Stage, Stage]:
        """(stage2, stage3, stage4)."""
        return self.stage2, self.stage3, self.stage4

    @model_validator(mode="after")
    def _stages_continue_each_other(self) -> Architecture:
        for number, (before, after) in enumerate(pairwise(self.stages), start=3):
            if after.widths[: before.branches] != before.widths:
                raise ValueError(
                    f"STAGE{number} has to keep the branches of STAGE{number - 1} ({list(before.widths)} channels), "
                    f"it has {list(after.widths)}; the official network cannot run that either"
                )
        return self


def uniform(widths: tuple[int, int, int, int], *, deconv: int) -> Architecture:
    """The published layout, 1, 4 and 3 modules of four BASIC blocks per branch, with these branch widths."""
    stages = [
        Stage(modules=modules, blocks=(4,) * branches, channels=widths[:branches])
        for modules, branches in ((1, 2), (4, 3), (3, 4))
    ]
    return Architecture(stage2=stages[0], stage3=stages[1], stage4=stages[2], deconv=Deconv(channels=deconv))
