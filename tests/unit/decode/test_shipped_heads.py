"""On the heads that the shipped model really puts out, the decoders agree bit for bit."""

from pathlib import Path

import numpy as np
import pytest

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.synth import synthesize
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.decode import decode_heads
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.targets.opening import open_model


@pytest.fixture(scope="module")
def shipped_heads(tmp_path_factory: pytest.TempPathFactory) -> list[Heads]:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, 3, 5)
    heads = []
    with open_model("default") as runner:
        for path in sorted(Path(folder).rglob("*.png")):
            photo = read_image(path)
            warp = Warp.plan(photo.shape[1], photo.shape[0], runner.info.short_side)
            image = warp.apply(photo)[None]
            straight = runner.heads(image)
            mirrored = runner.heads(np.ascontiguousarray(image[:, :, ::-1]))
            heads.append(Heads(straight.coarse, straight.fine, mirrored.coarse, mirrored.fine))
    assert len(heads) == 3
    return heads


@pytest.mark.parametrize("flip", [False, True])
def test_people_are_the_same_to_the_bit(shipped_heads: list[Heads], flip: bool) -> None:
    found = 0
    for heads in shipped_heads:
        config = DecodeConfig(flip=flip)
        (native,) = decode_heads(heads, config=config)
        (reference,) = decode_heads(heads, config=config, decoder="reference")
        for name in ("keypoints", "scores", "tags"):
            assert getattr(native, name).tobytes() == getattr(reference, name).tobytes(), name
        found += len(native)
    assert found > 0
