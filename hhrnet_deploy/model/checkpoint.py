"""Checkpoints in and out: any known weight file to a network, a network to one safetensors file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from hhrnet_deploy import files
from hhrnet_deploy.errors import CheckpointError, InputError
from hhrnet_deploy.model.diagnosis import COUNTER, identify, matching_presets, mismatch
from hhrnet_deploy.model.formats import METADATA_KEY, Weights, read_weights
from hhrnet_deploy.model.network import HigherHRNet
from hhrnet_deploy.model.presets import PRESETS, Preset, find_preset

DEFAULT = "default"
"""The name that means the weights that ship with this project."""

DEFAULT_PATH = Path(__file__).with_name("weights") / "default.safetensors"
_FINITE_LISTED = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model's weights came from.

    Attributes:
        path: the file; None for a freshly initialised model.
        sha256: of the file, 64 hexadecimal digits; None without a file.
        wrapping: how the file wraps the weights, for people.
        notes: choices made on the user's behalf, one sentence each.
        metadata: what was saved beside the weights (this project's files only).
    """

    path: Path | None = None
    sha256: str | None = None
    wrapping: str = "freshly initialised"
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None


class LoadedModel(HigherHRNet):
    """A network that knows its preset and where its weights came from.

    Attributes:
        preset: the preset it was built from.
        source: the origin of its weights.
    """

    def __init__(self, preset: Preset, source: Source | None = None) -> None:
        super().__init__(preset.architecture, preset.num_joints)
        self.preset = preset
        self.source = source or Source()


def load_model(
    preset: str | Path | Preset | None = None, checkpoint: str | os.PathLike[str] | None = None
) -> LoadedModel:
    """Build a network, in eval mode and float32 on the CPU, and fill it.

    Args:
        preset: a built-in name, an official experiment file (*.yaml) or a Preset; None: found from the checkpoint.
        checkpoint: a weight file in any known format; ``"default"``: the weights that ship; None: freshly initialised.

    Raises:
        CheckpointError: the file cannot be read, or does not hold exactly this network with finite weights.
        InputError: an unknown preset, or neither argument was given.
    """
    if checkpoint is None:
        if preset is None:
            raise InputError(
                "load_model needs a preset, a checkpoint, or both.", hint=f"Presets: {', '.join(PRESETS)}."
            )
        return LoadedModel(_as_preset(preset)).eval()
    weights = read_weights(path_of(checkpoint))
    chosen, notes = _choose_preset(preset, weights)
    for note in notes:
        _log.warning("%s", note)
    error = mismatch(weights, chosen)
    if error is not None:
        raise error
    source = Source(
        weights.path, files.sha256_of(weights.path), weights.wrapping, tuple(notes), weights.metadata or None
    )
    return _fill(chosen, source, weights).eval()


def _as_preset(preset: str | Path | Preset) -> Preset:
    return preset if isinstance(preset, Preset) else find_preset(preset)


def path_of(checkpoint: str | os.PathLike[str]) -> Path:
    """The file that is meant: ``"default"`` is the one that ships.

    Raises:
        CheckpointError: the shipped weights are missing.
    """
    if str(checkpoint) != DEFAULT:
        return Path(checkpoint)
    if not DEFAULT_PATH.is_file():
        raise CheckpointError(
            f"The weights that ship with hhrnet-deploy are not installed: {DEFAULT_PATH} is missing.",
            hint="Install the package again, or name a checkpoint.",
        )
    return DEFAULT_PATH


def _choose_preset(asked: str | Path | Preset | None, weights: Weights) -> tuple[Preset, list[str]]:
    noted = noted_preset(weights)
    if isinstance(asked, Preset):
        return asked, []
    if asked is not None:
        wanted = find_preset(asked)
        # The file may hold that preset retrained for other joints; it knows its skeleton best.
        return (noted if noted is not None and noted.name == wanted.name else wanted), []
    if noted is not None:
        return noted, []
    matches = matching_presets(weights.shapes)
    if not matches:
        finding = identify(weights)
        raise CheckpointError(
            f"Checkpoint {weights.path} fits no built-in preset: found {finding.what}.", hint=finding.hint
        )
    return _by_file_name(matches, weights.path)


def _by_file_name(matches: list[Preset], path: Path) -> tuple[Preset, list[str]]:
    """Presets that differ in input size only have the same shapes; the file name decides, else the smallest size."""
    if len(matches) == 1:
        return matches[0], []
    named = [preset for preset in matches if str(preset.short_side) in path.name]
    if len(named) == 1:
        return named[0], []
    smallest = min(matches, key=lambda preset: preset.short_side)
    others = ", ".join(preset.name for preset in matches if preset is not smallest)
    note = (
        f"{path.name} fits {smallest.name} and {others} alike (they differ in input size only) and its name does not "
        f"say which: taking {smallest.name}. Use --preset to choose."
    )
    return smallest, [note]


def noted_preset(weights: Weights) -> Preset | None:
    """What a file of this project says about its network; None for other files.

    Raises:
        CheckpointError: its note is not valid.
    """
    noted = weights.metadata.get("preset")
    if noted is None:
        return None
    try:
        preset = Preset.model_validate(noted)
    except ValidationError as error:
        raise CheckpointError(
            f"Checkpoint {weights.path}: the preset in its metadata is not valid ({error.error_count()} fields).",
            hint="It was edited, or written by a newer version; name the preset with --preset after saving it again.",
        ) from error
    known = PRESETS.get(preset.name)
    return known if known is not None and _same_network(known, preset) else preset


def _same_network(one: Preset, other: Preset) -> bool:
    return _essentials(one) == _essentials(other)


def _essentials(preset: Preset) -> dict[str, Any]:
    return preset.model_dump(mode="json", exclude={"published"})


def _fill(preset: Preset, source: Source, weights: Weights) -> LoadedModel:
    with torch.device("meta"):
        model = LoadedModel(preset, source)
    own = model.state_dict()
    state = {name: to_float32(weights.tensors[name], name, weights.path) for name in own if not name.endswith(COUNTER)}
    state |= {name: torch.tensor(_count(weights.tensors.get(name))) for name in own if name.endswith(COUNTER)}
    require_finite(state, weights.path)
    model.load_state_dict(state, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _count(counter: Tensor | None) -> int:
    """The value of a step counter, which inference does not read; 0 where the file has none that is a number."""
    if counter is None or counter.is_meta or counter.numel() != 1 or not bool(torch.isfinite(counter).all()):
        return 0
    return int(counter)


def to_float32(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A contiguous float32 copy of a weight; step counters pass unchanged.

    Raises:
        CheckpointError: the tensor has no values, is sparse or not of a floating type.
    """
    if name.endswith(COUNTER):
        return tensor
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise CheckpointError(
            f"Checkpoint {path}: {name} is {'a tensor without values' if tensor.is_meta else 'sparse'}.",
            hint="Save the dense weights themselves.",
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"Checkpoint {path}: {name} is {tensor.dtype}; expected a floating type.",
            hint="A quantised model cannot be loaded; use the float checkpoint it came from.",
        )
    return tensor.detach().to(torch.float32, copy=True).contiguous()


def require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        CheckpointError: names the first few such tensors.
    """
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"Checkpoint {path} has NaN or infinite values in {len(broken)} of {len(state)} tensors "
            f"({', '.join(broken[:_FINITE_LISTED])}{', ...' if len(broken) > _FINITE_LISTED else ''}).",
            hint="The training that wrote it diverged; take an earlier checkpoint.",
        )


def save_weights(
    model: HigherHRNet,
    path: str | os.PathLike[str],
    *,
    preset: Preset | None = None,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights and their preset to one safetensors file, atomically and with reproducible bytes.

    Args:
        model: the network; an unwrapped one, its state dict has the official names.
        path: the file to write.
        preset: what the network is; omitted for a LoadedModel, which knows.
        dtype: of convolution weights. Biases and batch normalisation stay float32: they are few, and variances may
            exceed float16's range.
        metadata: JSON-ready facts to keep beside the weights, such as the training's figures.

    Raises:
        InputError: no preset is known, or a weight does not survive ``dtype``.
    """
    described = preset or getattr(model, "preset", None)
    if not isinstance(described, Preset):
        raise InputError("save_weights needs the preset of this network.", hint="Pass preset=..., or a LoadedModel.")
    if (described.architecture, described.num_joints) != (model.architecture, model.num_joints):
        raise InputError(f"The network is not the one of preset {described.name}: widths or joints differ.")
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    noted = {**(metadata or {}), "preset": _essentials(described)}
    text = json.dumps(noted, sort_keys=True, allow_nan=False)
    with files.replacing(path) as temporary:
        # safetensors makes files that only their owner may read.
        temporary.touch()
        usual = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={METADATA_KEY: text})
        temporary.chmod(usual)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    value = tensor.detach().cpu()
    stored = value.to(dtype) if value.ndim == 4 else value
    if not bool(torch.isfinite(stored).all()):
        raise InputError(f"{name} has values that {stored.dtype} cannot hold; the weights were not saved.")
    return stored.contiguous().clone()
