from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_samples import ODD, TINY, TINY_PRESET, patterned_state
from torch import Tensor

from hhrnet_deploy.errors import CheckpointError
from hhrnet_deploy.model.checkpoint import save_weights
from hhrnet_deploy.model.initialise import init_from
from hhrnet_deploy.model.network import HigherHRNet

HEADS = ("final_layers.", "deconv_layers.")


def _filled() -> dict[str, Tensor]:
    return patterned_state(HigherHRNet(TINY, 17).state_dict())


def _fresh(joints: int = 17) -> HigherHRNet:
    torch.manual_seed(3)
    return HigherHRNet(TINY, joints)


def test_imagenet_backbone_fills_all_but_the_heads(tmp_path: Path) -> None:
    backbone = {name: tensor for name, tensor in _filled().items() if not name.startswith(HEADS)}
    torch.save({**backbone, "classifier.weight": torch.zeros(10, 16)}, tmp_path / "hrnet.pth")
    model, before = _fresh(), _fresh().state_dict()
    report = init_from(model, tmp_path / "hrnet.pth")
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 0
        elif name.startswith(HEADS):
            assert torch.equal(tensor, before[name])
            assert name in report.remade
        else:
            assert torch.equal(tensor, backbone[name])
            assert name in report.loaded
    assert report.ignored == ("classifier.weight",)
    assert report.partly == ()


def test_other_skeleton_keeps_what_does_not_depend_on_joints(tmp_path: Path) -> None:
    source = HigherHRNet(TINY, 17)
    source.load_state_dict(_filled())
    save_weights(source, tmp_path / "coco.safetensors", preset=TINY_PRESET, dtype=torch.float32)
    model, before = _fresh(5), _fresh(5).state_dict()
    report = init_from(model, tmp_path / "coco.safetensors")
    assert set(report.remade) == {f"final_layers.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}
    deconv = "deconv_layers.0.0.0.weight"
    assert report.partly == (deconv,)
    filled = model.state_dict()
    assert torch.equal(filled[deconv][:8], source.state_dict()[deconv][:8])
    assert torch.equal(filled[deconv][8:], before[deconv][8:])
    assert torch.equal(
        filled["deconv_layers.0.1.0.conv1.weight"], source.state_dict()["deconv_layers.0.1.0.conv1.weight"]
    )
    assert "fresh" in str(report)


def test_same_network_is_taken_over_whole(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in _filled().items()}}, tmp_path / "w.pth.tar")
    model = _fresh()
    report = init_from(model, tmp_path / "w.pth.tar")
    assert report.remade == report.partly == report.ignored == ()
    assert torch.equal(model.final_layers[1].weight, _filled()["final_layers.1.weight"])  # type: ignore[arg-type]


def test_backbone_only_leaves_the_heads_fresh(tmp_path: Path) -> None:
    torch.save(_filled(), tmp_path / "w.pth")
    model, before = _fresh(), _fresh().state_dict()
    report = init_from(model, tmp_path / "w.pth", backbone_only=True)
    assert (
        report.remade
        == report.ignored
        == tuple(name for name in before if name.startswith(HEADS) and not name.endswith("num_batches_tracked"))
    )
    for name in report.remade:
        assert torch.equal(model.state_dict()[name], before[name])
    assert torch.equal(model.conv1.weight, _filled()["conv1.weight"])


def test_other_widths_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    torch.save(HigherHRNet(ODD, 17).state_dict(), tmp_path / "odd.pth")
    model, before = _fresh(), _fresh().state_dict()
    with pytest.raises(CheckpointError, match=r"cannot start this network(.|\n)*of another shape"):
        init_from(model, tmp_path / "odd.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"0 of \d+ backbone tensors present"):
        init_from(_fresh(), tmp_path / "other.pth")


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    state = _filled()
    state["conv1.weight"][0] = float("inf")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinite(.|\n)*conv1\.weight"):
        init_from(_fresh(), tmp_path / "w.pth")
