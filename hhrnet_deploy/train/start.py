"""What a run starts from: fresh weights, an ImageNet HRNet, or any checkpoint, also one for other joints."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Literal

from torch import nn

from hhrnet_deploy.errors import CheckpointError, InputError
from hhrnet_deploy.model.checkpoint import (
    DEFAULT,
    DEFAULT_PATH,
    LoadedModel,
    load_model,
    noted_preset,
    require_finite,
    to_float32,
)
from hhrnet_deploy.model.diagnosis import COUNTER, is_backbone
from hhrnet_deploy.model.formats import read_weights
from hhrnet_deploy.model.presets import Preset

_LISTED = 6
# What has one channel per joint, whatever the number of joints: the heads, and the layer that reads the first one.
_OF_JOINTS = ("final_layers.", "deconv_layers.0.0.0.")


def start_network(
    preset: Preset,
    init: str | None = None,
    *,
    backbone_only: bool = False,
    fresh: Literal["official", "he"] = "official",
) -> tuple[LoadedModel, list[str]]:
    """Build the network of a preset and fill in what a file has for it.

    Tensors are taken by name where the shapes agree (pose_higher_hrnet.py:541-561 of the official code); the others
    keep their fresh initialisation: heads and deconvolution when an ImageNet HRNet or a model of other joints is given.
    A file of this project says which joints it has, so that as many others are not taken for the same.

    Args:
        preset: the network and its skeleton.
        init: a weight file in any known format, ``default`` for the weights that ship, None for fresh weights.
        fresh: how other weights are drawn; ``he`` is He et al. 2015, equation 10, for all convolutions but the heads.
        backbone_only: leave out heads and deconvolution, as the official CrowdPose-from-COCO experiment does.

    Returns:
        The network in float32, and sentences about what was taken and what was made anew.

    Raises:
        CheckpointError: the file is unreadable, has NaN, or none of its backbone fits.
    """
    network = load_model(preset)
    if fresh == "he":
        _draw_he(network)
    if init is None:
        return network, ["Starting from fresh weights."]
    path = DEFAULT_PATH if init == DEFAULT else Path(init)
    weights = read_weights(path)
    own = network.state_dict()
    noted = noted_preset(weights)
    others = noted is not None and noted.skeleton.joints != preset.skeleton.joints
    offered = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if is_backbone(name) or not (backbone_only or (others and name.startswith(_OF_JOINTS)))
    }
    fitting = {
        name: to_float32(tensor, name, path)
        for name, tensor in offered.items()
        if name in own and tensor.shape == own[name].shape and not name.endswith(COUNTER)
    }
    require_finite(fitting, path)
    wanted = [name for name in own if not name.endswith(COUNTER)]
    backbone = [name for name in wanted if is_backbone(name)]
    if sum(name in fitting for name in backbone) * 2 < len(backbone):
        raise CheckpointError(
            f"{path} does not fit preset {preset.name}: {sum(name in fitting for name in backbone)} of "
            f"{len(backbone)} backbone tensors have the right name and shape.",
            hint="Give a checkpoint of the same width, or choose another recipe.",
        )
    network.load_state_dict(fitting, strict=False)
    return network, _notes(path, wanted, fitting.keys())


def freeze(network: LoadedModel, prefixes: tuple[str, ...]) -> None:
    """Keep the parameters whose names start with one of ``prefixes`` as they are.

    `training_mode` keeps the statistics of their normalisation, too.

    Raises:
        InputError: a prefix names nothing.
    """
    names = dict(network.named_parameters())
    for prefix in prefixes:
        chosen = [parameter for name, parameter in names.items() if name.startswith(prefix)]
        if not chosen:
            raise InputError(
                f"frozen: no parameter starts with {prefix!r}.",
                hint=f"Layers: {', '.join(name for name, _ in network.named_children())}.",
            )
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise InputError("frozen: nothing is left to train.", hint="Name fewer layers.")


def training_mode(network: nn.Module) -> None:
    """Switch a network to training, but for frozen batch normalisation: it goes on with the statistics it has.

    What a frozen layer gives then depends on its input only, as it will in the engine.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()


def _draw_he(network: LoadedModel) -> None:
    for name, module in network.named_modules():
        if name.startswith("final_layers"):
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _notes(path: Path, wanted: list[str], taken: Set[str]) -> list[str]:
    fresh = [name for name in wanted if name not in taken]
    notes = [f"Starting from {path}: {len(wanted) - len(fresh)} of {len(wanted)} tensors taken."]
    if fresh:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in fresh))
        more = f" and {len(layers) - _LISTED} more" if len(layers) > _LISTED else ""
        notes.append(f"Made anew: {', '.join(layers[:_LISTED])}{more}.")
    return notes
