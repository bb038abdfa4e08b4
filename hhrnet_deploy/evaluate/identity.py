"""What makes two evaluations the same run, so that one may continue the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.targets.bundle import tool_version
from hhrnet_deploy.targets.runner import Runner

_DIGITS = 16
_SHIPPED_WEIGHTS = Path(__file__).parents[1] / "model" / "weights" / "default.safetensors"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        runner: not yet open.
        fingerprint: tells its weights from others'.
    """

    runner: Runner
    fingerprint: str


def open_candidate(what: str | Path, preset: str | None = None) -> Candidate:
    """An engine bundle, an ONNX file, a checkpoint or ``"default"``, ready to evaluate.

    Raises:
        InputError: as `targets.opening.open_model`.
    """
    from hhrnet_deploy.targets.opening import open_model

    return Candidate(open_model(what, preset), _fingerprint(what))


def candidate_of(model: Candidate | Runner | str | Path) -> Candidate:
    """A candidate as it is, or from a path, or from a runner.

    Of a runner only its description is known: two with other weights and the same description look the same.
    """
    if isinstance(model, Candidate):
        return model
    if isinstance(model, Runner):
        return Candidate(model, f"{model.info.name} {_hash(repr(model.info))}")
    return open_candidate(model)


def _fingerprint(what: str | Path) -> str:
    """The hash of a file, or of a bundle's manifest, which holds the hashes of its other files."""
    path = Path(what)
    for file in (path / "manifest.json", path, _SHIPPED_WEIGHTS):
        if file.is_file():
            return f"{path.name} {sha256_of(file)[:_DIGITS]}"
    return str(what)


def run_identity(
    fingerprints: list[str], data: KeypointDataset, config: InferenceConfig, decoder: str
) -> dict[str, Any]:
    """Everything that decides the people of a run; compared key by key."""
    return {
        "models": fingerprints,
        "data": f"{data.split} {sha256_of(data.annotation_file)[:_DIGITS]}",
        "images": f"{len(data)} {_hash(json.dumps(data.image_ids))}",
        "skeleton": data.skeleton.name,
        "settings": config.model_dump(mode="json"),
        "decoder": decoder,
        "version": tool_version(),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
