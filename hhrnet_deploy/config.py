"""Settings of inference, validated once. Defaults are the published behaviour (SEMANTICS: inference)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hhrnet_deploy.skeletons import Skeleton

# Per-channel mean and standard deviation (RGB, of pixels divided by 255) that every network here is trained with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

# A name that is safe as the name of a file or folder.
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class DecodeConfig(BaseModel):
    """How heads become people.

    Attributes:
        detection_threshold: a candidate's heat has to be above it (strict).
        tag_threshold: a match is accepted when the tag distance is below it (strict).
        nms_kernel: side of the max-pool that marks peaks; odd.
        max_people: M, candidates per joint type and persons a candidate may match; not a limit on people returned.
        flip: use the mirrored image's outputs; a runner whose engine has none runs the mirrored batch itself.
        adjust: move each joint a quarter pixel toward its larger neighbours (group.py:177-196).
        refine: look for each person's missing joints by tag (group.py:198-281).
        project: resize the merged maps to the network input before looking for peaks (PROJECT2IMAGE).
        use_detection_val: subtract the candidate's heat from the matching cost (USE_DETECTION_VAL).
        ignore_too_much: skip a joint type once M persons exist (IGNORE_TOO_MUCH).
        max_output: return at most that many people, the highest scores, in insertion order.
        skeleton: flip pairs and grouping order; None takes COCO for 17 joints and CrowdPose for 14.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    detection_threshold: float = Field(0.1, ge=0, allow_inf_nan=False)
    tag_threshold: float = Field(1.0, gt=0, allow_inf_nan=False)
    nms_kernel: int = Field(5, ge=1, le=31)
    max_people: int = Field(30, ge=1, le=100)
    flip: bool = True
    adjust: bool = True
    refine: bool = True
    project: bool = True
    use_detection_val: bool = True
    ignore_too_much: bool = False
    max_output: int | None = Field(None, ge=1)
    skeleton: Skeleton | None = None

    @field_validator("nms_kernel")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError("nms_kernel has to be odd")
        return side


class InferenceConfig(BaseModel):
    """How a photo becomes people: sizes and scales before the network, ``decode`` after it.

    Attributes:
        short_side: S, the short side of the network input at scale 1, in pixels.
        scales: multi-scale test; tags come from scale 1 or from the only scale given.
        max_long_side: the longest network input allowed, in pixels.
        decode: how heads become people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side: int = Field(512, ge=32)
    scales: tuple[Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)], ...] = (1.0,)
    max_long_side: int = Field(4096, ge=64)
    decode: DecodeConfig = DecodeConfig()

    @model_validator(mode="after")
    def _scales_have_tags(self) -> InferenceConfig:
        if not self.scales:
            raise ValueError("at least one scale is needed")
        if len(set(self.scales)) != len(self.scales):
            raise ValueError("a scale is given twice")
        if len(self.scales) > 1 and 1.0 not in self.scales:
            raise ValueError("several scales need scale 1 among them: the tags are taken from it")
        return self
