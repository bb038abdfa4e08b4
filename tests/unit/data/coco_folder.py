"""Small data sets built in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hhrnet_deploy.skeletons import COCO, CROWDPOSE

WIDTH, HEIGHT = 64, 48


def person(identity: int, image_id: int, joints: int = 17, /, **changes: Any) -> dict[str, Any]:
    """A sound annotation with every joint labelled; ``changes`` replace fields, None removes one."""
    keypoints = [value for joint in range(joints) for value in (10 + joint, 20, 2)]
    fields = {
        "id": identity,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": joints,
        "keypoints": keypoints,
        "bbox": [8, 10, 30, 20],
        "area": 500.5,
        "segmentation": [[8, 10, 38, 10, 38, 30, 8, 30]],
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def image(identity: int, /, **changes: Any) -> dict[str, Any]:
    """A sound image entry."""
    return {"id": identity, "file_name": f"{identity:012d}.jpg", "width": WIDTH, "height": HEIGHT, **changes}


def document(images: list[Any], annotations: list[Any] | None, joints: tuple[str, ...] = COCO.joints) -> dict[str, Any]:
    """An annotation file's content."""
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(joints), "skeleton": []}
    result: dict[str, Any] = {"images": images, "categories": [category]}
    return result if annotations is None else {**result, "annotations": annotations}


def write_photo(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """A JPEG with some content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.add.outer(np.arange(height) * 3, np.arange(width) * 2) % 256
    cv2.imwrite(str(path), np.stack([pixels, pixels[::-1], pixels[:, ::-1]], axis=-1).astype(np.uint8))


def write_json(path: Path, content: Any) -> Path:
    """``content`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco_folder(root: Path, content: dict[str, Any], split: str = "val2017") -> Path:
    """A folder in COCO's layout with every image that ``content`` lists."""
    write_json(root / "annotations" / f"person_keypoints_{split}.json", content)
    for entry in content["images"]:
        write_photo(root / "images" / split / entry["file_name"])
    return root


def sound_folder(root: Path) -> Path:
    """Two images, two people, nothing wrong."""
    return coco_folder(root, document([image(7), image(3)], [person(1, 3), person(2, 7)]))


def crowdpose_person(identity: int, image_id: int) -> dict[str, Any]:
    """An annotation as CrowdPose has them: 14 joints of which head and neck do not count, no area."""
    return person(identity, image_id, 14, num_keypoints=12, area=None, segmentation=None)


def crowdpose_document(ids: list[int], first: int = 1) -> dict[str, Any]:
    """Images with these ids, one person in each."""
    images = [image(identity, file_name=f"{identity}.jpg", crowdIndex=0.5) for identity in ids]
    people = [crowdpose_person(first + number, identity) for number, identity in enumerate(ids)]
    return document(images, people, CROWDPOSE.joints)
