"""The models this project knows by name, and official experiment files as further ones. No torch.

Figures and file names: README of the official code, "Main Results" and "Quick start", and its ``experiments/``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hhrnet_deploy.config import InferenceConfig, PlainName
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.model.architecture import Architecture, Deconv, Stage, uniform
from hhrnet_deploy.model.official import official_config, read_experiment
from hhrnet_deploy.skeletons import COCO, CROWDPOSE, Skeleton

_YAML_SUFFIXES = (".yaml", ".yml")


class PublishedAP(BaseModel):
    """One row of the official README's tables, in percent.

    Attributes:
        dataset: what it was measured on.
        scales: single-scale or multi-scale test.
        figures: AP, AP50, AP75 and, for COCO, APM, APL; for CrowdPose, APE, APM, APH (easy, medium, hard).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Literal["COCO val2017", "COCO test-dev2017", "CrowdPose test"]
    scales: Literal["single", "multi"]
    figures: dict[str, float]

    @property
    def ap(self) -> float:
        """AP in percent."""
        return self.figures["AP"]


class Published(BaseModel):
    """What the authors published about a preset; everything empty for a model of this project.

    Attributes:
        parameters_m: millions of parameters.
        multiply_adds_g: billions of multiply-adds ("GFLOPs"); the deconvolution is counted four times over.
        results: AP tables.
        checkpoint: name of the official weights file.
        imagenet: name of the ImageNet backbone that its training starts from.
        experiment: the experiment file, below the official ``experiments/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters_m: float | None = None
    multiply_adds_g: float | None = None
    results: tuple[PublishedAP, ...] = ()
    checkpoint: str | None = None
    imagenet: str | None = None
    experiment: str | None = None

    def ap(self, scales: Literal["single", "multi"]) -> float | None:
        """AP in percent on COCO val2017 or CrowdPose test; None where nothing is published."""
        rows = (row.ap for row in self.results if row.scales == scales and row.dataset != "COCO test-dev2017")
        return next(rows, None)


class Preset(BaseModel):
    """A network with everything needed to use it.

    Attributes:
        name: how commands, checkpoints, graphs and manifests call it.
        architecture: widths, depths, kernels.
        short_side: S, the short side of its input in pixels.
        skeleton: the joints it finds.
        published: the authors' figures and file names.
        settings: inference as an experiment file asks for it; None means this project's defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: PlainName
    architecture: Architecture
    short_side: int = Field(ge=32)
    skeleton: Skeleton
    published: Published = Published()
    settings: InferenceConfig | None = None

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return self.skeleton.num_joints

    @property
    def inference(self) -> InferenceConfig:
        """How photos become people with this preset."""
        return self.settings or InferenceConfig(short_side=self.short_side)

    def with_skeleton(self, skeleton: Skeleton) -> Preset:
        """The same network for other joints; figures and files that were published for the old ones are dropped."""
        if skeleton == self.skeleton:
            return self
        return self.model_copy(update={"skeleton": skeleton, "published": Published()})

    def official_config(self) -> dict[str, Any]:
        """The preset under the official configuration's key names (MODEL.EXTRA...)."""
        return official_config(self.architecture, self.skeleton, self.inference)


def _rows(dataset: str, names: str, **tables: str) -> tuple[PublishedAP, ...]:
    return tuple(
        PublishedAP.model_validate(
            {
                "dataset": dataset,
                "scales": scales,
                "figures": dict(zip(names.split(), map(float, row.split()), strict=True)),
            }
        )
        for scales, row in tables.items()
    )


_COCO_NAMES = "AP AP50 AP75 APM APL"
_CROWDPOSE_NAMES = "AP AP50 AP75 APE APM APH"
_W32 = uniform((32, 64, 128, 256), deconv=32)
_W48 = uniform((48, 96, 192, 384), deconv=48)
_W32_IMAGENET = "hrnet_w32-36af842e.pth"
_W48_IMAGENET = "hrnet_w48-8ef0771d.pth"

# Fewer and wider blocks than the published layout: on CPUs the fixed stem and layer1 dominate, and memory traffic of
# many narrow blocks costs more time than their arithmetic.
_SMALL = Architecture(
    stage2=Stage(modules=1, blocks=(2, 2), channels=(32, 48)),
    stage3=Stage(modules=2, blocks=(2, 2, 2), channels=(32, 48, 64)),
    stage4=Stage(modules=1, blocks=(2, 2, 2, 2), channels=(32, 48, 64, 96)),
    deconv=Deconv(channels=32, blocks=1),
)

_BUILT_IN = (
    Preset(
        name="w32_512",
        architecture=_W32,
        short_side=512,
        skeleton=COCO,
        published=Published(
            parameters_m=28.6,
            multiply_adds_g=47.9,
            results=(
                *_rows(
                    "COCO val2017", _COCO_NAMES, single="67.1 86.2 73.0 61.5 76.1", multi="69.9 87.1 76.0 65.3 77.0"
                ),
                *_rows("COCO test-dev2017", _COCO_NAMES, single="66.4 87.5 72.8 61.2 74.2"),
            ),
            checkpoint="pose_higher_hrnet_w32_512.pth",
            imagenet=_W32_IMAGENET,
            experiment="coco/higher_hrnet/w32_512_adam_lr1e-3.yaml",
        ),
    ),
    Preset(
        name="w32_640",
        architecture=_W32,
        short_side=640,
        skeleton=COCO,
        published=Published(
            parameters_m=28.6,
            multiply_adds_g=74.8,
            results=_rows(
                "COCO val2017", _COCO_NAMES, single="68.5 87.1 74.7 64.3 75.3", multi="70.6 88.1 76.9 66.6 76.5"
            ),
            checkpoint="pose_higher_hrnet_w32_640.pth",
            imagenet=_W32_IMAGENET,
            experiment="coco/higher_hrnet/w32_640_adam_lr1e-3.yaml",
        ),
    ),
    Preset(
        name="w48_640",
        architecture=_W48,
        short_side=640,
        skeleton=COCO,
        published=Published(
            parameters_m=63.8,
            multiply_adds_g=154.3,
            results=(
                *_rows(
                    "COCO val2017", _COCO_NAMES, single="69.9 87.2 76.1 65.4 76.4", multi="72.1 88.4 78.2 67.8 78.3"
                ),
                *_rows(
                    "COCO test-dev2017",
                    _COCO_NAMES,
                    single="68.4 88.2 75.1 64.4 74.2",
                    multi="70.5 89.3 77.2 66.6 75.8",
                ),
            ),
            checkpoint="pose_higher_hrnet_w48_640.pth",
            imagenet=_W48_IMAGENET,
            experiment="coco/higher_hrnet/w48_640_adam_lr1e-3.yaml",
        ),
    ),
    Preset(
        name="crowdpose_w32_512",
        architecture=_W32,
        short_side=512,
        skeleton=CROWDPOSE,
        published=Published(
            imagenet=_W32_IMAGENET,
            experiment="crowd_pose/higher_hrnet/w32_512_adam_lr1e-3.yaml",
        ),
    ),
    Preset(
        name="crowdpose_w32_640",
        architecture=_W32,
        short_side=640,
        skeleton=CROWDPOSE,
        published=Published(
            imagenet=_W32_IMAGENET,
            experiment="crowd_pose/higher_hrnet/w32_640_adam_lr1e-3.yaml",
        ),
    ),
    Preset(
        name="crowdpose_w48_640",
        architecture=_W48,
        short_side=640,
        skeleton=CROWDPOSE,
        published=Published(
            results=_rows(
                "CrowdPose test",
                _CROWDPOSE_NAMES,
                single="65.9 86.4 70.6 73.3 66.5 57.9",
                multi="67.6 87.4 72.6 75.8 68.1 58.9",
            ),
            imagenet=_W48_IMAGENET,
            experiment="crowd_pose/higher_hrnet/w48_640_adam_lr1e-3.yaml",
        ),
    ),
    # The same family for demos and tests, shallower and narrower. The 1/4 branch keeps width 32, because the coarse
    # head reads 2K = 34 maps from it.
    Preset(name="small_256", architecture=_SMALL, short_side=256, skeleton=COCO),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _BUILT_IN}
"""Every built-in preset by name."""


def find_preset(name_or_yaml: str | Path, skeleton: Skeleton | None = None) -> Preset:
    """A built-in preset by name, or one read from an official experiment file.

    Args:
        name_or_yaml: a name of ``PRESETS`` or the path of a YAML file.
        skeleton: joints other than the preset's own.

    Raises:
        InputError: neither a name nor a usable experiment file.
    """
    text = str(name_or_yaml)
    preset = PRESETS.get(text)
    if preset is not None:
        return preset if skeleton is None else preset.with_skeleton(skeleton)
    if Path(text).suffix.lower() not in _YAML_SUFFIXES:
        raise InputError(
            f"Preset {text!r} is unknown: neither built in nor an official experiment file (*.yaml).",
            hint=f"Built in: {', '.join(PRESETS)}.",
        )
    experiment = read_experiment(text, skeleton)
    read = Preset(
        name=re.sub(r"^[.-]|[^A-Za-z0-9_.-]", "_", Path(text).stem),
        architecture=experiment.architecture,
        short_side=experiment.inference.short_side,
        skeleton=experiment.skeleton,
        published=Published(imagenet=experiment.imagenet or None),
        settings=experiment.inference,
    )
    # The official files are the built-in presets; under their own names they are found again later.
    return next((known for known in PRESETS.values() if _same_use(known, read)), read)


def _same_use(one: Preset, other: Preset) -> bool:
    return (one.architecture, one.skeleton, one.inference) == (other.architecture, other.skeleton, other.inference)
