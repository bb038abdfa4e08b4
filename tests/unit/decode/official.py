"""The official post-processing, run from a checkout that the environment variable HHRNET_OFFICIAL names.

Nothing of it is part of this project: its two files are loaded from there, with the one import they need replaced.
Set ATEN_CPU_CAPABILITY=default before PyTorch is loaded: its other kernels compute other bits.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.skeletons import COCO, CROWDPOSE


class Official:
    """Its merging, flip test, multi-scale sum and parser, as its test script calls them.

    Args:
        checkout: the folder of the official repository.
        channels_last: hand the heads over in the other memory format, which changes PyTorch's bits.
    """

    def __init__(self, checkout: str | Path, *, channels_last: bool = False) -> None:
        transforms = ModuleType("dataset.transforms")
        transforms.FLIP_CONFIG = {"COCO": list(COCO.flip_index), "CROWDPOSE": list(CROWDPOSE.flip_index)}
        sys.modules.setdefault("dataset", ModuleType("dataset"))
        sys.modules["dataset.transforms"] = transforms
        self._group = _load(Path(checkout) / "lib/core/group.py")
        self._inference = _load(Path(checkout) / "lib/core/inference.py")
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def decode(
        self, scaled: list[tuple[float, tuple[np.ndarray, ...]]], size: tuple[int, int], config: DecodeConfig
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (P, K, 3) and scores (P,) of one image; scaled as decode_heads takes it."""
        flip = len(scaled[0][1]) == 4
        settings = _settings(scaled, config, flip)
        heat, tags = None, []
        for scale, heads in sorted(scaled, key=lambda item: -item[0]):
            _, maps, side_tags = self._inference.get_multi_stage_outputs(
                settings, self._model(heads), torch.zeros(1, 3, 2, 2), flip, config.project, size
            )
            heat, tags = self._inference.aggregate_results(settings, scale, heat, tags, maps, side_tags)
        heat = heat / float(len(scaled))
        parser = self._group.HeatmapParser(settings)
        people, scores = parser.parse(heat, torch.cat(tags, dim=4), config.adjust, config.refine)
        joints = scaled[0][1][1].shape[1]
        keypoints = np.asarray(people[0], np.float32).reshape(len(people[0]), joints, -1)[..., :3]
        return keypoints, np.asarray(scores, np.float32)

    def _model(self, heads: tuple[np.ndarray, ...]) -> Any:
        outputs = [torch.from_numpy(head.astype(np.float32)).contiguous(memory_format=self._format) for head in heads]
        calls = iter((outputs[:2], outputs[2:]))
        return lambda _image: next(calls)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _settings(scaled: list, config: DecodeConfig, flip: bool) -> SimpleNamespace:
    joints = scaled[0][1][1].shape[1]
    return SimpleNamespace(
        DATASET=SimpleNamespace(
            NUM_JOINTS=joints,
            MAX_NUM_PEOPLE=config.max_people,
            WITH_CENTER=False,
            DATASET="coco" if joints == COCO.num_joints else "crowd_pose",
        ),
        MODEL=SimpleNamespace(TAG_PER_JOINT=True),
        LOSS=SimpleNamespace(WITH_HEATMAPS_LOSS=(True, True), WITH_AE_LOSS=(True, False)),
        TEST=SimpleNamespace(
            FLIP_TEST=flip,
            SCALE_FACTOR=[scale for scale, _ in scaled],
            PROJECT2IMAGE=config.project,
            DETECTION_THRESHOLD=config.detection_threshold,
            TAG_THRESHOLD=config.tag_threshold,
            USE_DETECTION_VAL=config.use_detection_val,
            IGNORE_TOO_MUCH=config.ignore_too_much,
            IGNORE_CENTER=True,
            NMS_KERNEL=config.nms_kernel,
            NMS_PADDING=config.nms_kernel // 2,
            WITH_HEATMAPS=(True, True),
            WITH_AE=(True, False),
        ),
    )
