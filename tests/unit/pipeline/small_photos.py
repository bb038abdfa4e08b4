"""A small annotated COCO folder and a tiny model's settings, for tests of whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from hhrnet_deploy.skeletons import COCO


def write_coco(root: Path, count: int = 3, *, size: tuple[int, int] = (96, 64), names: list[str] | None = None) -> Path:
    """``count`` photos of noise, (W, H), one annotated person of 60 px in each."""
    folder = root / "images" / "val2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        name = names[number] if names else f"{number:012d}.png"
        pixels = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(pixels, size))
        images.append({"id": number + 1, "file_name": name, "width": size[0], "height": size[1]})
        points = np.concatenate([rng.integers(2, 62, (17, 2)), np.full((17, 1), 2)], axis=1)
        annotations.append(
            {
                "id": number + 1,
                "image_id": number + 1,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": points.reshape(-1).tolist(),
                "bbox": [2, 2, 60, 60],
                "area": 2500.0,
            }
        )
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(document))
    return root
