"""The kernels find the people that the host's decoder finds, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from card import Card
from fields import Field, stack

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import decode_heads
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People

pytestmark = pytest.mark.gpu

FIELDS = 1000
SEEDS_PER_TEST = 50


def draw(seed: int) -> tuple[Heads, DecodeConfig, tuple[int, int] | None]:
    """A batch, settings and a grid; every kind of field, tie and size comes up."""
    rng = np.random.default_rng(seed)
    height, width = (16 * int(side) for side in rng.integers(1, 9, 2))
    field = Field(
        people=int(rng.integers(0, 30)),
        joints=int(rng.choice([17, 14])),
        width=width,
        height=height,
        noise=float(rng.choice([0.0, 0.01, 0.1])),
        tag_step=float(rng.choice([0.0, 0.5])),
        heat_step=float(rng.choice([0.0, 0.0, 0.1])),
        tag_spread=float(rng.choice([0.5, 3.0, 8.0])),
        duplicates=float(rng.choice([0.0, 0.3])),
    )
    dtype = np.float16 if rng.random() < 0.3 else np.float32
    flip = bool(rng.random() < 0.6)
    images = [field.draw(100 * seed + number, flip=flip, dtype=dtype) for number in range(int(rng.integers(1, 4)))]
    config = DecodeConfig(
        flip=flip,
        adjust=bool(rng.random() < 0.8),
        refine=bool(rng.random() < 0.8),
        project=bool(rng.random() < 0.8),
        use_detection_val=bool(rng.random() < 0.9),
        ignore_too_much=bool(rng.random() < 0.2),
        nms_kernel=int(rng.choice([3, 5, 7])),
        max_people=int(rng.choice([1, 5, 30, 30, 60])),
        tag_threshold=float(rng.choice([0.5, 1.0, 2.0])),
    )
    size = (int(rng.integers(20, 300)), int(rng.integers(20, 300))) if rng.random() < 0.2 else None
    return Heads(*stack(images)), config, size


def assert_equal(found: list[People], expected: list[People], what: object) -> None:
    assert [len(one) for one in found] == [len(one) for one in expected], what
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints, err_msg=str(what))
        np.testing.assert_array_equal(one.scores, other.scores, err_msg=str(what))
        np.testing.assert_array_equal(one.tags, other.tags, err_msg=str(what))


def check(card: Card, seed: int) -> int:
    heads, config, size = draw(seed)
    expected = decode_heads(heads, size=size, config=config)
    assert_equal(card.decode(heads, config, size), expected, f"field {seed}")
    return sum(len(one) for one in expected)


@pytest.mark.parametrize("start", range(0, FIELDS, SEEDS_PER_TEST))
def test_random_fields(card: Card, start: int) -> None:
    assert sum(check(card, seed) for seed in range(start, start + SEEDS_PER_TEST)) > 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real photos where HHRNET_COCO names some, otherwise drawn ones."""
    import os

    from hhrnet_deploy.data.synth import synthesize

    coco = os.environ.get("HHRNET_COCO")
    if coco:
        return sorted((Path(coco) / "images" / "val2017").glob("*.jpg"))[:24]
    root = tmp_path_factory.mktemp("drawn") / "photos"
    synthesize(root, images=12, seed=3)
    return sorted((root / "images" / "val2017").iterdir())


@pytest.mark.parametrize("flip", [True, False])
def test_heads_of_a_network(card: Card, photos: list[Path], flip: bool) -> None:
    """Of the model that ships, through PyTorch."""
    from hhrnet_deploy.data.images import read_image
    from hhrnet_deploy.data.warp import Warp
    from hhrnet_deploy.targets.opening import open_model

    total = 0
    with open_model("default") as runner:
        for path in photos:
            image: Any = read_image(path)
            warp = Warp.plan(image.shape[1], image.shape[0], runner.info.short_side)
            heads = runner.heads_with_flip(warp.apply(image)[None], flip)
            config = DecodeConfig(flip=flip)
            expected = decode_heads(heads, config=config)
            assert_equal(card.decode(heads, config), expected, path.name)
            total += len(expected[0])
    assert total > 0


def test_a_head_with_nan_has_no_people(card: Card) -> None:
    from hhrnet_deploy.targets.cuda_people import UnusableHeadsError

    coarse, fine = Field(people=3).draw(1)
    fine[0, 3, 10, 10] = np.nan
    with pytest.raises(UnusableHeadsError):
        card.decode(Heads(coarse, fine), DecodeConfig(flip=False))
