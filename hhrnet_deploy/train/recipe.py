"""Recipes: everything that decides what a training run does, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hhrnet_deploy import resources
from hhrnet_deploy.data.augment import Geometry, Photometric
from hhrnet_deploy.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Synthetic(_Part):
    """Synthetic people, drawn once and kept in the cache folder.

    Attributes:
        images, seed: of the generator.
        poses: file of real poses (``$VARIABLES`` are expanded); None draws invented ones only.
        short_side: pixels.
    """

    images: Count
    seed: Annotated[int, Field(ge=0)]
    poses: str | None = None
    short_side: Count = 320


class Pasted(_Part):
    """Photos with people of other photos pasted in, made once and kept in the cache folder.

    Attributes:
        path, split: the data set that photos and people come from (``$VARIABLES`` are expanded).
        images, seed: how many, and from which random numbers.
        short_side: pixels; photos with a longer short side are shrunk first.
    """

    path: str
    split: str = "train2017"
    images: Count
    seed: Annotated[int, Field(ge=0)]
    short_side: Count = 320


class Source(_Part):
    """One data set: exactly one of ``path``, ``manifest``, ``synthetic`` and ``pasted``.

    Attributes:
        path: its folder, COCO or CrowdPose layout (``$VARIABLES`` are expanded).
        manifest: a committed synthetic set, by path or bare name.
        synthetic, pasted: made on first use.
        split: which split of ``path``; None takes the layout's training split (for validation: val2017 or test).
        repeat: how often each of its images comes in an epoch.
    """

    path: str | None = None
    manifest: str | None = None
    synthetic: Synthetic | None = None
    pasted: Pasted | None = None
    split: str | None = None
    repeat: Count = 1

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        kinds = (self.path, self.manifest, self.synthetic, self.pasted)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a source has exactly one of path, manifest, synthetic and pasted")
        return self


class ScaleAware(_Part):
    """Gaussians that grow with the person (SCALE_AWARE_SIGMA, BASE_SIZE, BASE_SIGMA, INT_SIGMA)."""

    base_size: Positive = 256.0
    base_sigma: Positive = 2.0
    round_up: bool = False


class TargetOptions(_Part):
    """How the heat maps to learn are drawn.

    Attributes:
        sigma: standard deviation in pixels of each resolution.
        exact: centred on the joint itself and mirrored as the image is (UDP, Huang et al. 2020); the official code
            truncates to a pixel of the map and mirrors at the map's own last pixel.
        scale_aware: one for each person instead.
    """

    sigma: Annotated[float, Field(gt=0, le=1000)] = 2.0
    exact: bool = False
    scale_aware: ScaleAware | None = None


class LossOptions(_Part):
    """Factors of the loss parts (HEATMAPS_LOSS_FACTOR, PUSH_LOSS_FACTOR, PULL_LOSS_FACTOR).

    ``foreground`` is extra weight of the pixels around joints; the official loss has none.
    """

    coarse_heat: NotNegative = 1.0
    fine_heat: NotNegative = 1.0
    push: NotNegative = 1e-3
    pull: NotNegative = 1e-3
    foreground: NotNegative = 0.0


class Optimiser(_Part):
    """The optimiser and its learning rate.

    Attributes:
        kind: ``adam`` for everything, or ``muon`` for the convolutions and Adam for the rest (optimiser.py).
        lr: the highest learning rate.
        schedule: ``steps`` divides by ten at each of ``milestones`` (epochs); ``cosine`` falls to ``final_lr``.
        milestones: epochs, for ``steps``.
        warmup_steps: the rate rises linearly over the first steps.
        final_lr: where ``cosine`` ends.
        max_gradient_norm: gradients longer than this are shortened to it; None leaves them.
        weight_decay: decoupled (AdamW) when above 0; the official code passes none.
    """

    kind: Literal["adam", "muon"] = "adam"
    lr: Positive = 1e-3
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[Count, ...] = ()
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_lr: NotNegative = 0.0
    max_gradient_norm: Positive | None = None
    weight_decay: NotNegative = 0.0


class Recipe(_Part):
    """A training run.

    Attributes:
        preset: the network and its skeleton.
        sources: what to train on; ``--data`` replaces it by one folder.
        validation: for AP while training; None takes the default split of the first source's folder, ``--data`` that
            of its folder.
        crop: side of the training images in pixels, a multiple of 32.
        epochs: passes over the sources.
        budget_minutes: when set, the run ends and the cosine falls by the clock instead of by the epoch. Such a run
            depends on the machine's speed: resuming it goes on, but not to the same bits.
        global_batch: images per optimiser step over all devices.
        images_per_device: images one device takes at once; gradients are accumulated up to ``global_batch``.
        precision: ``bf16`` and ``fp16`` are autocast, ``bf16`` only where the device has it; ``fp16`` scales the loss.
        sync_bn: batch normalisation over the images of all devices.
        ema: decay of the moving average that is validated and shipped; None switches it off.
        init: what to start from: None, ``default``, or a checkpoint; ``--init`` replaces it.
        seed: of weights, order and augmentation.
        workers: loading processes per device.
        validate_every: epochs between validations.
        validation_images: how many images validation takes at most, in the set's order; None takes all.
        checkpoint_minutes: the longest time between two checkpoints.
        log_steps: optimiser steps between two lines of metrics.
        init_layers: ``backbone`` takes HRNet's layers only from ``init``; heads and deconvolution start anew.
        frozen: layers whose parameter names start with one of these stay as they are, normalisation statistics too.
        fresh: how weights that no file gives are drawn. ``official``: N(0, 0.001). ``he``: N(0, 2 / fan), which learns
            several times faster where there are no ImageNet weights to start from.
    """

    preset: str
    sources: tuple[Source, ...] = ()
    validation: Source | None = None
    crop: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 512
    epochs: Count = 300
    budget_minutes: Positive | None = None
    global_batch: Annotated[int, Field(ge=1, le=65536)] = 48
    images_per_device: Count = 12
    geometry: Geometry = Geometry()
    photometric: Photometric = Photometric()
    targets: TargetOptions = TargetOptions()
    loss: LossOptions = LossOptions()
    optimiser: Optimiser = Optimiser()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    sync_bn: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    init: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    workers: Annotated[int, Field(ge=0, le=256)] = 4
    validate_every: Count = 10
    validation_images: Count | None = None
    checkpoint_minutes: Positive = 10.0
    log_steps: Count = 20
    init_layers: Literal["all", "backbone"] = "all"
    frozen: tuple[str, ...] = ()
    fresh: Literal["official", "he"] = "official"

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Recipe:
        milestones = self.optimiser.milestones
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("optimiser.milestones have to rise")
        if self.budget_minutes is not None and self.optimiser.schedule != "cosine":
            raise ValueError("budget_minutes needs optimiser.schedule: cosine")
        return self


def load_recipe(name_or_path: str | Path, settings: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by bare name or path and change it by ``key=value`` settings.

    Args:
        name_or_path: as ``resources.find`` takes it.
        settings: ``key=value`` with dots for nested keys and YAML values, for example ``optimiser.lr=5e-4``.

    Raises:
        InputError: no such recipe, no YAML, an unknown key or a wrong value.
    """
    path = resources.find(resources.RECIPE, name_or_path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # a date that does not exist is a ValueError
        raise InputError(f"Recipe {path} is not YAML: {error}.") from error
    if not isinstance(document, dict):
        raise InputError(f"Recipe {path} has to be a mapping of keys to values, got {type(document).__name__}.")
    for setting in settings:
        _apply(document, setting)
    return parse_recipe(document, name=str(path))


def parse_recipe(document: dict[str, Any], *, name: str) -> Recipe:
    """Validate a recipe; ``name`` says in errors where it came from.

    Raises:
        InputError: an unknown key or a wrong value, all of them listed.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'recipe'}: {item['msg']}" for item in error.errors())
        raise InputError(
            f"Recipe {name} is not valid: {details}.", hint="training/README.md lists the keys."
        ) from error


def _apply(document: dict[str, Any], setting: str) -> None:
    key, found, text = setting.partition("=")
    if not found or not key:
        raise InputError(f"--set wants key=value, got {setting!r}.", hint="For example --set optimiser.lr=5e-4")
    *parents, last = key.split(".")
    place = document
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise InputError(f"--set {setting}: {parent!r} holds a value, not keys.")
    try:
        place[last] = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"--set {setting}: the value is not YAML: {error}.") from error
    # YAML 1.1 reads 5e-4 as text; numbers are meant.
    if isinstance(place[last], str):
        place[last] = _number_or_text(place[last])


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
