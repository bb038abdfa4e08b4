"""Saying what a set of weights is when it is not what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from hhrnet_deploy.errors import CheckpointError
from hhrnet_deploy.model.architecture import Architecture
from hhrnet_deploy.model.formats import Weights
from hhrnet_deploy.model.network import HigherHRNet
from hhrnet_deploy.model.presets import PRESETS, Preset

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"
"""Batch normalisation's step counter: files of PyTorch before 0.4.1 lack it and inference does not read it."""

_BRANCH = "stage4.0.branches.{}.0.conv1.weight"
_IMAGENET_MARKS = ("classifier.weight", "incre_modules.0.0.conv1.weight", "fc.weight")
_BACKBONE = ("conv1.", "bn1.", "conv2.", "bn2.", "layer1.", "transition", "stage")
_LISTED = 3


@cache
def expected_shapes(architecture: Architecture, num_joints: int) -> Mapping[str, Shape]:
    """Names and shapes of the state dict, step counters left out."""
    with torch.device("meta"):
        state = HigherHRNet(architecture, num_joints).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}


def without_counters(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """``shapes`` without the step counters."""
    return {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}


def is_backbone(name: str) -> bool:
    """Whether the parameter belongs to HRNet itself rather than to heads and deconvolution."""
    return name.startswith(_BACKBONE)


def matching_presets(shapes: Mapping[str, Shape]) -> list[Preset]:
    """The built-in presets whose state dict has exactly these names and shapes."""
    found = without_counters(shapes)
    return [p for p in PRESETS.values() if expected_shapes(p.architecture, p.num_joints) == found]


@dataclass(frozen=True)
class Finding:
    """What a file seems to hold, as it ends the sentence "the file holds ...", and what to do about it."""

    what: str
    hint: str


def identify(weights: Weights) -> Finding:
    """Say what the weights seem to be."""
    noted = weights.metadata.get("preset")
    if isinstance(noted, dict):
        return Finding(f"the weights of {noted.get('name')}, as the file itself says", "Leave --preset out.")
    matches = matching_presets(weights.shapes)
    if matches:
        names = " or ".join(preset.name for preset in matches)
        return Finding(f"the weights of {names}", f"Use --preset {matches[0].name}, or leave --preset out.")
    return _identify_no_preset(weights)


def _identify_no_preset(weights: Weights) -> Finding:
    shapes = weights.shapes
    if any(mark in shapes for mark in _IMAGENET_MARKS) and any(name.startswith("stage4.") for name in shapes):
        return _backbone_finding(
            weights, f"an {_hrnet(shapes)} classifier trained on ImageNet, a backbone without heads"
        )
    if _is_higher(shapes):
        return Finding(
            f"a HigherHRNet {_summary(shapes)}, which is no built-in preset",
            "Name its experiment file: --preset FILE.yaml (its key DATASET.SKELETON names a file for other joints).",
        )
    if any(name.startswith("final_layer.") for name in shapes) and "stage4.0.branches.0.0.conv1.weight" in shapes:
        return _backbone_finding(weights, f"an {_hrnet(shapes)} pose network with one final_layer, not a HigherHRNet")
    if shapes and sum(map(is_backbone, shapes)) >= len(shapes) // 2 and any(n.startswith("stage4.") for n in shapes):
        return _backbone_finding(weights, f"an {_hrnet(shapes)} backbone without HigherHRNet's heads")
    first = ", ".join(list(shapes)[:_LISTED])
    return Finding(
        f"{len(shapes)} tensors of another network ({first}...)",
        "Expected HigherHRNet's names: conv1, layer1, stage2 ... stage4, final_layers, deconv_layers.",
    )


def _backbone_finding(weights: Weights, what: str) -> Finding:
    return Finding(what, f"Train from it: hhrnet train --init {weights.path}")


def _hrnet(shapes: Mapping[str, Shape]) -> str:
    width = shapes.get(_BRANCH.format(0))
    return f"HRNet-W{width[0]}" if width else "HRNet"


def _is_higher(shapes: Mapping[str, Shape]) -> bool:
    needed = ("final_layers.0.weight", "final_layers.1.weight", "deconv_layers.0.0.0.weight")
    return all(len(shapes.get(name, ())) == 4 for name in needed)


def _summary(shapes: Mapping[str, Shape]) -> str:
    widths = [shapes[_BRANCH.format(branch)][0] for branch in range(8) if _BRANCH.format(branch) in shapes]
    joints = shapes["final_layers.1.weight"][0]
    return f"with branch widths {widths} and {joints} joints"


def mismatch(weights: Weights, preset: Preset) -> CheckpointError | None:
    """The error to raise when ``weights`` do not fill the network of ``preset`` exactly; None when they do."""
    expected, found = expected_shapes(preset.architecture, preset.num_joints), without_counters(weights.shapes)
    if expected == found:
        return None
    finding = identify(weights)
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    differing = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = [
        f"{len(names)} {title} ({', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''})"
        for names, title in ((differing, "of another shape"), (missing, "missing"), (extra, "unexpected"))
        if names
    ]
    return CheckpointError(
        f"Checkpoint {weights.path} does not hold {preset.name} ({preset.num_joints} joints): "
        f"found {finding.what}. Parameters {'; '.join(parts)}.",
        hint=finding.hint,
    )
