"""An engine that decodes itself brings its settings; what is typed replaces only what was typed."""

from __future__ import annotations

from typing import Any

import pytest

from hhrnet_deploy.cli.options import decode_settings, inference_config
from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.pipeline.pose import Pose
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.targets.runner import RunnerInfo

BAKED = DecodeConfig(flip=False, max_people=12, detection_threshold=0.25, refine=False)


def info(decode: DecodeConfig | None) -> RunnerInfo:
    outputs: Any = "heads" if decode is None else "people"
    return RunnerInfo("e", "tensorrt", "fp16", "w32_512", COCO, 512, outputs=outputs, decode=decode)


@pytest.mark.parametrize(
    ("decode", "given", "expected"),
    [
        (BAKED, {"flip": None, "detection_threshold": None}, BAKED),
        (BAKED, {"flip": True}, BAKED.model_copy(update={"flip": True})),
        (None, {"flip": None, "detection_threshold": 0.3}, DecodeConfig(detection_threshold=0.3)),
        (None, {}, DecodeConfig()),
    ],
)
def test_commands_start_from_what_the_engine_was_built_with(
    decode: DecodeConfig | None, given: dict[str, Any], expected: DecodeConfig
) -> None:
    settings = decode_settings(info(decode), given)
    assert inference_config(512, decode=settings) == InferenceConfig(short_side=512, decode=expected)


def test_a_pose_starts_from_them_too() -> None:
    class Engine:
        def __init__(self, decode: DecodeConfig | None) -> None:
            self.info = info(decode)

        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    made: Any = Engine(BAKED)
    assert Pose(made).config.decode == BAKED
    plain: Any = Engine(None)
    assert Pose(plain).config.decode == DecodeConfig()
