"""Which preset a checkpoint is, and what is said when it is another one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import torch
from model_samples import TINY, TINY_PRESET, patterned_state, shape_only_state

from hhrnet_deploy.errors import CheckpointError, InputError
from hhrnet_deploy.model import checkpoint as checkpoint_module
from hhrnet_deploy.model.checkpoint import load_model, save_weights
from hhrnet_deploy.model.diagnosis import expected_shapes
from hhrnet_deploy.model.network import HigherHRNet
from hhrnet_deploy.model.presets import PRESETS
from hhrnet_deploy.skeletons import CROWDPOSE


def _shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    preset = PRESETS[name]
    return dict(expected_shapes(preset.architecture, preset.num_joints))


def _save(file: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    torch.save(shape_only_state(shapes), file)
    return file


def test_neither_preset_nor_checkpoint() -> None:
    with pytest.raises(InputError, match="needs a preset"):
        load_model()


def test_without_a_checkpoint_the_network_is_fresh() -> None:
    model = load_model("small_256")
    assert model.preset is PRESETS["small_256"]
    assert model.source.path is None
    assert not model.training
    assert abs(float(model.conv1.weight.detach().std()) / 0.001 - 1) < 0.1


@pytest.mark.parametrize(
    ("file_name", "weights", "found", "told"),
    [
        ("pose_higher_hrnet_w32_512.pth", "w32_512", "w32_512", False),
        ("pose_higher_hrnet_w32_640.pth", "w32_512", "w32_640", False),
        ("final.pth", "w32_512", "w32_512", True),
        ("crowd_640.pth", "crowdpose_w32_512", "crowdpose_w32_640", False),
        ("small.pth", "small_256", "small_256", False),
    ],
)
def test_preset_is_found_from_shapes_and_file_name(
    file_name: str, weights: str, found: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = _save(tmp_path / file_name, _shapes_of(weights))
    with caplog.at_level(logging.WARNING):
        model = load_model(None, file)
    assert model.preset.name == found
    assert bool(model.source.notes) is told
    assert ("--preset" in caplog.text) is told


def test_wrong_preset_names_both(tmp_path: Path) -> None:
    file = _save(tmp_path / "weights.pth", _shapes_of("w48_640"))
    with pytest.raises(CheckpointError) as caught:
        load_model("w32_512", file)
    text = str(caught.value)
    assert "does not hold w32_512" in text
    assert "found the weights of w48_640" in text
    assert "[48, 256, 3, 3] instead of [32, 256, 3, 3]" in text
    assert "--preset w48_640" in text


def test_crowdpose_weights_for_a_coco_preset(tmp_path: Path) -> None:
    file = _save(tmp_path / "weights.pth", _shapes_of("crowdpose_w32_512"))
    with pytest.raises(CheckpointError, match=r"found the weights of crowdpose_w32_512 or crowdpose_w32_640"):
        load_model("w32_512", file)


def _backbone(name: str) -> dict[str, tuple[int, ...]]:
    return {k: v for k, v in _shapes_of(name).items() if not k.startswith(("final_layers", "deconv_layers"))}


IMAGENET = {"incre_modules.0.0.conv1.weight": (32, 32, 1, 1), "classifier.weight": (1000, 2048)}


@pytest.mark.parametrize("preset", [None, "w32_512"])
@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (IMAGENET, "HRNet-W32 classifier trained on ImageNet"),
        ({}, "HRNet-W32 backbone without"),
        (
            {"final_layer.weight": (17, 32, 1, 1), "final_layer.bias": (17,)},
            "HRNet-W32 pose network with one final_layer",
        ),
    ],
)
def test_a_backbone_is_named_and_init_offered(
    preset: str | None, extra: dict[str, tuple[int, ...]], found: str, tmp_path: Path
) -> None:
    file = _save(tmp_path / "hrnet_w32-36af842e.pth", {**_backbone("w32_512"), **extra})
    with pytest.raises(CheckpointError, match=found) as caught:
        load_model(preset, file)
    assert f"--init {file}" in str(caught.value)


def test_unknown_widths_are_told(tmp_path: Path) -> None:
    file = _save(tmp_path / "weights.pth", dict(expected_shapes(TINY, 9)))
    with pytest.raises(CheckpointError, match=r"branch widths \[8, 8, 12, 16\] and 9 joints(.|\n)*--preset FILE"):
        load_model(None, file)


def test_missing_and_unexpected_parameters_are_listed(tmp_path: Path) -> None:
    shapes = dict(expected_shapes(TINY, 17))
    del shapes["final_layers.1.bias"]
    shapes["surplus.weight"] = (1,)
    with pytest.raises(CheckpointError, match=r"1 missing \(final_layers.1.bias\); 1 unexpected \(surplus.weight\)"):
        load_model(TINY_PRESET, _save(tmp_path / "weights.pth", shapes))


def _tiny() -> HigherHRNet:
    network = HigherHRNet(TINY, 17)
    network.load_state_dict(patterned_state(network.state_dict()))
    return network


def test_saved_weights_come_back_with_their_preset(tmp_path: Path) -> None:
    network, file = _tiny(), tmp_path / "out" / "tiny.safetensors"
    save_weights(network, file, preset=TINY_PRESET, metadata={"AP": 0.5})
    model = load_model(None, file)
    assert model.preset == TINY_PRESET
    assert model.source.metadata is not None
    assert model.source.metadata["AP"] == 0.5
    assert model.source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for name, tensor in network.state_dict().items():
        rounded = tensor.half().float() if tensor.ndim == 4 else tensor
        assert torch.equal(model.state_dict()[name], rounded), name


def test_wrong_preset_for_a_saved_model_names_its_own(tmp_path: Path) -> None:
    save_weights(_tiny(), tmp_path / "tiny.safetensors", preset=TINY_PRESET)
    with pytest.raises(CheckpointError, match=r"does not hold small_256(.|\n)*found the weights of tiny"):
        load_model("small_256", tmp_path / "tiny.safetensors")


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    network = _tiny()
    for name in ("one", "two"):
        save_weights(network, tmp_path / name, preset=TINY_PRESET, dtype=torch.float32, metadata={"b": 1, "a": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = load_model(None, tmp_path / "one")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_half_size_of_the_small_preset(tmp_path: Path) -> None:
    save_weights(load_model("small_256"), tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 6e6


def test_other_joints_are_remembered(tmp_path: Path) -> None:
    """A file of a built-in preset retrained for other joints loads by that preset's name, with its own skeleton."""
    preset = PRESETS["small_256"].with_skeleton(CROWDPOSE.model_copy(update={"name": "workers"}))
    save_weights(HigherHRNet(preset.architecture, 14), tmp_path / "w.safetensors", preset=preset)
    for asked in (None, "small_256"):
        assert load_model(asked, tmp_path / "w.safetensors").preset.skeleton.name == "workers"


def test_weights_that_do_not_fit_half_precision_are_not_saved(tmp_path: Path) -> None:
    network, file = _tiny(), tmp_path / "tiny.safetensors"
    save_weights(network, file, preset=TINY_PRESET)
    before = file.read_bytes()
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, 0] = 1e6
        network.bn1.running_var.fill_(1e6)
    with pytest.raises(InputError, match=r"conv2\.weight has values that torch\.float16 cannot hold"):
        save_weights(network, file, preset=TINY_PRESET)
    assert file.read_bytes() == before
    save_weights(network, file, preset=TINY_PRESET, dtype=torch.float32)
    assert float(load_model(None, file).bn1.running_var[0]) == 1e6  # type: ignore[index]


def test_a_preset_has_to_fit_the_network_it_is_saved_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the one of preset small_256"):
        save_weights(_tiny(), tmp_path / "w.safetensors", preset=PRESETS["small_256"])
    with pytest.raises(InputError, match="needs the preset"):
        save_weights(_tiny(), tmp_path / "w.safetensors")


def test_default_means_the_weights_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "weights" / "default.safetensors"
    monkeypatch.setattr(checkpoint_module, "DEFAULT_PATH", shipped)
    with pytest.raises(CheckpointError, match="not installed"):
        load_model(None, "default")
    save_weights(load_model("small_256"), shipped)
    assert load_model(None, "default").preset is PRESETS["small_256"]
