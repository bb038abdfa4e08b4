"""What a run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_world import TINY

from hhrnet_deploy.errors import CheckpointError, InputError
from hhrnet_deploy.model.checkpoint import LoadedModel, load_model, save_weights
from hhrnet_deploy.model.presets import Preset
from hhrnet_deploy.skeletons import COCO, CROWDPOSE
from hhrnet_deploy.train.distributed import GlobalBatchNorm2d
from hhrnet_deploy.train.start import freeze, start_network, training_mode

PRESET = Preset(name="tiny", architecture=TINY, short_side=64, skeleton=COCO)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[LoadedModel, Path]:
    torch.manual_seed(7)
    network = load_model(PRESET)
    path = tmp_path / "trained.safetensors"
    save_weights(network, path, dtype=torch.float32)
    return network, path


def test_a_checkpoint_of_the_same_network_is_taken_whole(trained: tuple[LoadedModel, Path]) -> None:
    network, path = trained
    started, notes = start_network(PRESET, str(path))
    assert all(torch.equal(value, started.state_dict()[name]) for name, value in network.state_dict().items())
    assert len(notes) == 1


def test_an_imagenet_hrnet_gives_its_backbone_by_name(trained: tuple[LoadedModel, Path], tmp_path: Path) -> None:
    network, _ = trained
    backbone = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith(("final_layers", "deconv_layers"))
    }
    imagenet = {
        **backbone,
        "incre_modules.0.0.conv1.weight": torch.zeros(4, 4, 1, 1),
        "classifier.weight": torch.zeros(1000, 2048),
        "classifier.bias": torch.zeros(1000),
    }
    torch.save(imagenet, tmp_path / "hrnet.pth")
    started, notes = start_network(PRESET, str(tmp_path / "hrnet.pth"))
    state = started.state_dict()
    assert all(torch.equal(state[name], value) for name, value in backbone.items())
    assert state["final_layers.0.weight"].std() < 0.01
    assert "Made anew: final_layers.0, final_layers.1, deconv_layers.0.0.0" in notes[1]


def test_other_joints_get_new_heads(trained: tuple[LoadedModel, Path]) -> None:
    network, path = trained
    started, notes = start_network(PRESET.with_skeleton(CROWDPOSE), str(path))
    assert started.final_layers[0].weight.shape[0] == 28  # type: ignore[union-attr]
    assert torch.equal(started.conv1.weight, network.conv1.weight)
    assert torch.equal(
        started.state_dict()["deconv_layers.0.1.0.conv1.weight"],
        network.state_dict()["deconv_layers.0.1.0.conv1.weight"],
    )
    assert "deconv_layers.0.0.0" in notes[1]


def test_as_many_other_joints_get_new_heads_too(trained: tuple[LoadedModel, Path]) -> None:
    network, path = trained
    others = COCO.model_copy(update={"name": "own", "joints": tuple(f"own_{joint}" for joint in COCO.joints)})
    started, notes = start_network(PRESET.with_skeleton(others), str(path))
    before, after = network.state_dict(), started.state_dict()
    for name in ("final_layers.0.weight", "final_layers.1.weight", "deconv_layers.0.0.0.weight"):
        assert not torch.equal(before[name], after[name])
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert "Made anew: final_layers.0, final_layers.1, deconv_layers.0.0.0" in notes[1]


def test_backbone_only_leaves_heads_and_deconvolution_fresh(trained: tuple[LoadedModel, Path]) -> None:
    network, path = trained
    torch.manual_seed(8)
    started, _ = start_network(PRESET, str(path), backbone_only=True)
    name = "deconv_layers.0.1.0.conv1.weight"
    assert torch.equal(started.conv1.weight, network.conv1.weight)
    assert not torch.equal(started.state_dict()[name], network.state_dict()[name])


def test_he_initialisation_keeps_the_size_of_activations() -> None:
    torch.manual_seed(0)
    official, _ = start_network(PRESET)
    he, _ = start_network(PRESET, fresh="he")
    assert official.conv2.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert he.conv2.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert he.final_layers[0].weight.std().item() == pytest.approx(0.001, rel=0.3)  # type: ignore[union-attr]


def test_a_checkpoint_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3), "stage2.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit preset tiny"):
        start_network(PRESET, str(tmp_path / "other.pth"))


def test_frozen_layers_are_those_named() -> None:
    network = load_model(PRESET)
    freeze(network, ("conv1", "layer1"))
    fixed = {name.partition(".")[0] for name, value in network.named_parameters() if not value.requires_grad}
    assert fixed == {"conv1", "layer1"}
    with pytest.raises(InputError, match="no parameter starts with 'stem'"):
        freeze(network, ("stem",))


@pytest.mark.parametrize("synchronised", [False, True])
def test_frozen_layers_keep_their_statistics_and_their_outputs(synchronised: bool) -> None:
    torch.manual_seed(3)
    network = load_model(PRESET)
    freeze(network, ("conv1", "bn1"))
    if synchronised:
        network.bn1, network.bn2 = GlobalBatchNorm2d.like(network.bn1), GlobalBatchNorm2d.like(network.bn2)
    training_mode(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    shown = torch.cat([network.bn1(network.conv1(image[None])) for image in images])
    torch.testing.assert_close(network.bn1(network.conv1(images)), shown)
    network.bn2(network.conv2(shown))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"bn2.running_mean", "bn2.running_var", "bn2.num_batches_tracked"}
