"""Whole models through TensorRT-RTX, without a card: every precision, fixed and dynamic, uint8 input, with flip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.targets import tensorrt_rtx, trt_target
from hhrnet_deploy.targets.bundle import read_bundle, read_layers
from hhrnet_deploy.targets.target import Layer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tensorrt-rtx")]

PRESETS = ("small_256", "w32_512")
SIDES = {"small_256": 256, "w32_512": 512}
# What stays in half precision in an int8 engine: the heads, the part of the deconvolution that takes the coarse heat
# maps, and the rest of the deconvolution, which TensorRT-RTX 1.7 always computes in float.
NOT_INT8 = ("final_layers.0", "final_layers.1", "ConvTranspose")


@pytest.fixture(scope="module", params=PRESETS)
def model(request: pytest.FixtureRequest) -> Any:
    """Random weights that keep activations near unit size."""
    import torch

    from hhrnet_deploy.model.checkpoint import load_model

    torch.manual_seed(0)
    network = load_model(request.param)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
    return network.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos to calibrate on: what matters here is which layers are int8, not how well."""
    import cv2

    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (15, 20, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(pixels, (640, 480)))
    return folder


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tensorrt_rtx, trt_target):
        monkeypatch.setattr(module, "compute_capability", lambda: None)


def convolutions(layers: list[Layer]) -> dict[str, str]:
    return {name: layer.precision for layer in layers for name in layer.work}


@pytest.mark.parametrize("fixed", [False, True], ids=["dynamic", "fixed"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_builds(model: Any, photos: Path, precision: str, fixed: bool, tmp_path: Path) -> None:
    side = SIDES[model.preset.name]
    shapes = {"size": f"{side}x{side}", "batch": 1} if fixed else {}
    options = {"compute_capabilities": ("8.9",), "max_batch": None if fixed else 4}
    report = build_engine(
        model,
        tmp_path / "e",
        target="tensorrt-rtx",
        precision=precision,
        flip=True,
        calibration=None if precision == "fp32" else str(photos),
        ranges=None if precision == "fp32" else photos.parent / f"{model.preset.name}-{fixed}.npz",
        tensorrt=options,
        **shapes,
    )
    layers = read_layers(read_bundle(report.path))
    found = convolutions(layers)
    assert report.manifest.cost is not None
    assert sum(sum(layer.work.values()) for layer in layers) == report.manifest.cost.multiply_adds
    if precision == "int8":
        named = {name for name in found if any(part in name for part in NOT_INT8)}
        assert {found[name] for name in found.keys() - named} == {"int8"}
        assert {found[name] for name in named} == {"fp16"}
    else:
        assert set(found.values()) == {precision}
