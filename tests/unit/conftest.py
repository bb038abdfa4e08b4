"""A tiny HigherHRNet, exported and built once per session: the real path in seconds."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hhrnet_deploy.model.checkpoint import LoadedModel

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; the tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_tiny_model(seed: int = 0, skeleton_name: str = "coco") -> LoadedModel:
    """The family's structure with a few channels, and weights that keep every layer's output near unit size."""
    import torch

    from hhrnet_deploy.model.architecture import Architecture, Deconv, Stage
    from hhrnet_deploy.model.checkpoint import load_model
    from hhrnet_deploy.model.presets import Preset
    from hhrnet_deploy.skeletons import find_skeleton

    def stage(*channels: int) -> Stage:
        return Stage(modules=1, blocks=(1,) * len(channels), channels=channels)

    architecture = Architecture(
        stage2=stage(4, 8), stage3=stage(4, 8, 8), stage4=stage(4, 8, 8, 16), deconv=Deconv(channels=4, blocks=1)
    )
    preset = Preset(
        name=f"tiny_{skeleton_name}", architecture=architecture, short_side=64, skeleton=find_skeleton(skeleton_name)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = load_model(preset)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                torch.nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
                torch.nn.init.normal_(module.bias, 0.0, 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    return make_tiny_model()


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from hhrnet_deploy.model.checkpoint import save_weights

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_weights(tiny_model, path, dtype=torch.float32)
    return path


def _exported(model: Any, folder: Path, **options: Any) -> Path:
    from hhrnet_deploy.export.exporting import export_onnx

    return Path(export_onnx(model, folder / "heads.onnx", **options).path)


@pytest.fixture(scope="session")
def tiny_onnx(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dynamic, uint8, no flip."""
    return _exported(tiny_model, tmp_path_factory.mktemp("dynamic"))


@pytest.fixture(scope="session")
def tiny_onnx_flip(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dynamic, uint8, mirrored images inside."""
    return _exported(tiny_model, tmp_path_factory.mktemp("flip"), flip=True)


@pytest.fixture(scope="session")
def tiny_onnx_fixed(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of 64x96 (height x width), normalised float input, mirrored images inside, not simplified."""
    folder = tmp_path_factory.mktemp("fixed")
    return _exported(tiny_model, folder, size=(64, 96), batch=2, flip=True, input="float", simplify=False)
