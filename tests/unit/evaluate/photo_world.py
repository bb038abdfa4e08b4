"""A world for evaluation tests: photos of one colour each, and a runner that knows by the colour who is there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO, Skeleton
from hhrnet_deploy.targets.runner import Runner, RunnerInfo

SHORT_SIDE = 64
SIZES = ((96, 64), (64, 96), (80, 80), (150, 64))


def people_of(keypoints: np.ndarray, scores: np.ndarray) -> People:
    keypoints = np.asarray(keypoints, np.float32)
    return People(keypoints, np.asarray(scores, np.float32), np.zeros((*keypoints.shape[:2], 1), np.float32))


def color_of(number: int) -> tuple[int, int, int]:
    return 10 + number % 200, 10 + number // 200, 77


def number_of(pixel: np.ndarray) -> int:
    return int(pixel[0]) - 10 + 200 * (int(pixel[1]) - 10)


class World:
    """Annotations of ``images`` photos with up to 4 people each; image ids are 1000 + 7 * number."""

    def __init__(self, images: int, *, seed: int = 0, skeleton: Skeleton = COCO) -> None:
        rng = np.random.default_rng(seed)
        self.skeleton = skeleton
        self.sizes = [SIZES[number % len(SIZES)] for number in range(images)]
        self.people = [self._draw(rng, size) for size in self.sizes]

    def _draw(self, rng: np.random.Generator, size: tuple[int, int]) -> People:
        count = int(rng.integers(0, 5))
        keypoints = np.ones((count, self.skeleton.num_joints, 3))
        # Large people: beyond 32^2 px, where COCO counts them.
        keypoints[:, :, 0] = rng.integers(0, size[0], keypoints.shape[:2])
        keypoints[:, :, 1] = rng.integers(0, size[1], keypoints.shape[:2])
        return people_of(keypoints, rng.uniform(0.3, 0.9, count))

    @staticmethod
    def image_id(number: int) -> int:
        return 1000 + 7 * number

    def write(self, root: Path, split: str = "val2017") -> Path:
        """The world as a folder in COCO's layout."""
        folder = root / "images" / split
        folder.mkdir(parents=True)
        (root / "annotations").mkdir()
        images, annotations = [], []
        for number, (size, people) in enumerate(zip(self.sizes, self.people, strict=True)):
            name = f"{number:012d}.png"
            photo = np.full((size[1], size[0], 3), color_of(number), np.uint8)
            cv2.imwrite(str(folder / name), photo[:, :, ::-1])
            images.append({"id": self.image_id(number), "file_name": name, "width": size[0], "height": size[1]})
            annotations += [self.annotation(number, person, len(annotations)) for person in people.keypoints]
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": list(self.skeleton.joints), "skeleton": []}],
        }
        (root / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(document))
        return root

    def annotation(self, number: int, person: np.ndarray, annotation_id: int) -> dict[str, Any]:
        keypoints = person.astype(float).copy()
        keypoints[:, 2] = 2
        low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
        width, height = (high - low).tolist()
        return {
            "id": annotation_id,  # from 0: pycocotools alone takes that id for "no match"
            "image_id": self.image_id(number),
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": len(keypoints),
            "keypoints": keypoints.reshape(-1).tolist(),
            "bbox": [*low.tolist(), width, height],
            "area": max(width * height * 0.5, 1500.0),
        }


class KnowingRunner(Runner):
    """Answers with the world's people, in pixels of the network input; ``change`` may tamper with them."""

    def __init__(
        self,
        world: World,
        *,
        name: str = "knowing",
        change: Callable[[int, People], People] = lambda number, people: people,
        **info: Any,
    ) -> None:
        fields = {"target": "fake", "precision": "fp32", "preset": "small_256", "skeleton": world.skeleton}
        super().__init__(RunnerInfo(**{"name": name, "short_side": SHORT_SIDE, **fields, **info}))
        self.world = world
        self.change = change
        self.batches: list[list[int]] = []
        self.lock = threading.Lock()
        self.pause = 0.0

    def _open(self) -> None:
        pass

    def _close(self) -> None:
        pass

    def _run(self, images: np.ndarray) -> Heads:
        raise AssertionError("only people are asked for")

    def people(
        self,
        images: Any,
        config: DecodeConfig | None = None,
        *,
        size: tuple[int, int] | None = None,
        decoder: str = "native",
    ) -> list[People]:
        scales = self._scales(images)
        smallest = min(scale for scale, _ in scales)
        pixels = next((batch for scale, batch in scales if scale == 1.0), scales[0][1])
        numbers = [number_of(photo[photo.shape[0] // 2, photo.shape[1] // 2]) for photo in pixels]
        with self.lock:
            self.batches.append(numbers)
        time.sleep(self.pause)
        return [self._answer(number, smallest) for number in numbers]

    def _answer(self, number: int, smallest: float) -> People:
        width, height = self.world.sizes[number]
        warp = Warp.plan(width, height, self.info.short_side, min_scale=smallest)
        people = self.world.people[number]
        keypoints = people.keypoints.astype(np.float64).copy()
        homogeneous = np.concatenate([keypoints[:, :, :2], np.ones((*keypoints.shape[:2], 1))], axis=2)
        keypoints[:, :, :2] = homogeneous @ warp.matrix.T
        return self.change(number, people.with_keypoints(keypoints.astype(np.float32)))
