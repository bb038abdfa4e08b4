"""Tiny things to train on: a preset file, a data set, a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.model.architecture import Architecture, Deconv, Stage
from hhrnet_deploy.model.official import official_config
from hhrnet_deploy.skeletons import COCO, Skeleton


def _stage(*channels: int) -> Stage:
    return Stage(modules=1, blocks=(1,) * len(channels), channels=channels)


TINY = Architecture(
    stage2=_stage(4, 8), stage3=_stage(4, 8, 8), stage4=_stage(4, 8, 8, 16), deconv=Deconv(channels=4, blocks=1)
)


def write_preset(path: Path, skeleton: Skeleton = COCO) -> Path:
    """An official experiment file of a tiny network."""
    path.write_text(yaml.safe_dump(official_config(TINY, skeleton, InferenceConfig(short_side=64))), encoding="utf-8")
    return path


def write_people(
    root: Path, images: int, *, seed: int = 0, split: str = "train2017", joints: tuple[str, ...] = COCO.joints
) -> Path:
    """A COCO folder of 96x80 noise photos, each with one to three people of random joints."""
    rng = np.random.default_rng(seed)
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, images + 1):
        name = f"{number:012d}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (80, 96, 3), dtype=np.uint8))
        entries.append({"id": number, "file_name": name, "width": 96, "height": 80})
        for _ in range(int(rng.integers(1, 4))):
            points = np.column_stack([rng.uniform(5, 90, len(joints)), rng.uniform(5, 75, len(joints))])
            keypoints = np.column_stack([points, np.full(len(joints), 2)]).ravel().tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "num_keypoints": len(joints),
                    "keypoints": keypoints,
                    "bbox": [5, 5, 85, 70],
                    "area": 3000.0,
                    "segmentation": [[5, 5, 90, 5, 90, 75, 5, 75]],
                }
            )
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(joints), "skeleton": []}
    target = root / "annotations" / f"person_keypoints_{split}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": [category]}))
    return root


def recipe_document(preset: Path | str, data: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that runs in a second or two."""
    return {
        "preset": str(preset),
        "sources": [{"path": str(data), "split": "train2017"}],
        "crop": 64,
        "epochs": 2,
        "global_batch": 4,
        "images_per_device": 4,
        "workers": 0,
        "log_steps": 1,
        "validate_every": 1,
        "optimiser": {"lr": 1e-3, "schedule": "cosine"},
        **changes,
    }
