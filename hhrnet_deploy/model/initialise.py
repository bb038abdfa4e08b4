"""Starting a training from other weights: an ImageNet backbone, or a model for another skeleton (``--init``).

The official code loads whatever has a name of the network and skips the rest silently
(pose_higher_hrnet.py:553-571). Here the same is reported, and weights that have nothing to give are an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hhrnet_deploy.errors import CheckpointError
from hhrnet_deploy.model.checkpoint import path_of, require_finite, to_float32
from hhrnet_deploy.model.diagnosis import COUNTER, identify, is_backbone
from hhrnet_deploy.model.formats import Weights, read_weights
from hhrnet_deploy.model.network import HigherHRNet

_DECONV = "deconv_layers.0.0.0.weight"
_LISTED = 3


@dataclass(frozen=True)
class InitReport:
    """What became of the weights of ``init_from``.

    Attributes:
        path: the file.
        loaded: parameters and buffers taken over.
        remade: those of the network that keep their fresh values, because the file has none or of another skeleton.
        partly: those taken over in part: the input channels of the deconvolution that do not come from the head.
        ignored: names of the file that were not used.
    """

    path: Path
    loaded: tuple[str, ...]
    remade: tuple[str, ...]
    partly: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {len(self.loaded)} tensors taken over, {len(self.partly)} in part, "
            f"{len(self.remade)} fresh, {len(self.ignored)} of the file unused"
        )


def init_from(model: HigherHRNet, checkpoint: str | os.PathLike[str], *, backbone_only: bool = False) -> InitReport:
    """Fill what a checkpoint can fill; everything else keeps the values it has.

    Heads are taken over only when they have the same shape, that is, the same number of joints.

    Args:
        model: the network, usually freshly initialised; changed in place.
        checkpoint: an ImageNet HRNet or any HigherHRNet checkpoint, in any known format; ``"default"``: what ships.
        backbone_only: leave heads and deconvolution fresh, as the official CrowdPose-from-COCO experiment does.

    Raises:
        CheckpointError: the file cannot be read, its backbone has other widths, or it holds no backbone at all.
    """
    weights = read_weights(path_of(checkpoint))
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    _require_same_backbone(own, weights)
    fitting = {
        name: to_float32(weights.tensors[name], name, weights.path)
        for name, tensor in own.items()
        if name in weights.tensors
        and weights.tensors[name].shape == tensor.shape
        and (is_backbone(name) or not backbone_only)
    }
    require_finite(fitting, weights.path)
    partly = () if _DECONV in fitting or backbone_only else _part_of_deconv(model, weights)
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    remade = tuple(name for name in own if name not in fitting and name not in partly)
    used = {*fitting, *partly}
    ignored = tuple(name for name in weights.tensors if name not in used and not name.endswith(COUNTER))
    return InitReport(weights.path, tuple(fitting), remade, partly, ignored)


def _require_same_backbone(own: dict[str, Tensor], weights: Weights) -> None:
    names = [name for name in own if is_backbone(name)]
    differing = [
        f"{name} is {list(weights.tensors[name].shape)}, not {list(own[name].shape)}"
        for name in names
        if name in weights.tensors and weights.tensors[name].shape != own[name].shape
    ]
    present = sum(name in weights.tensors for name in names)
    if not differing and 2 * present >= len(names):
        return
    finding = identify(weights)
    raise CheckpointError(
        f"Checkpoint {weights.path} cannot start this network: found {finding.what}; "
        f"{present} of {len(names)} backbone tensors present, {len(differing)} of another shape"
        f"{' (' + '; '.join(differing[:_LISTED]) + ')' if differing else ''}.",
        hint="Expected a HigherHRNet checkpoint or an ImageNet HRNet of the same width.",
    )


def _part_of_deconv(model: HigherHRNet, weights: Weights) -> tuple[str, ...]:
    """Take over the deconvolution's rows for backbone features; those for the other skeleton's head stay fresh.

    Its input is (features, coarse head) concatenated (pose_higher_hrnet.py:513-515), so the features come first.
    """
    mine, given = model.get_parameter(_DECONV), weights.tensors.get(_DECONV)
    features = model.architecture.stage4.widths[0]
    if given is None or given.ndim != 4 or given.shape[1:] != mine.shape[1:] or given.shape[0] < features:
        return ()
    value = to_float32(given[:features], _DECONV, weights.path)
    require_finite({_DECONV: value}, weights.path)
    with torch.no_grad():
        mine[:features].copy_(value)
    return (_DECONV,)
