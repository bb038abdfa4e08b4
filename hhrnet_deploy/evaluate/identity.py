"""What makes two evaluations the same run, so that one may continue the other."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.targets.runner import Runner

_DIGITS = 16


def fingerprint(model: Runner | str | Path) -> str:
    """What tells one model from another: the hash of its file, or of a bundle's manifest, which hashes the rest.

    Of a runner only its description is known; two runners with other weights and the same description look the same.
    """
    if isinstance(model, Runner):
        return f"{model.info.name} {_hash(repr(model.info))}"
    path = Path(model)
    manifest = path / "manifest.json"
    for file in (manifest, path):
        if file.is_file():
            return f"{path.name} {sha256_of(file)[:_DIGITS]}"
    return str(model)


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
        "version": version("hhrnet-deploy"),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
