"""The network against what the official code gave for the same configuration and weights (official_network.json)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import ODD, TINY, listing_hash, patterned_images, patterned_state

from hhrnet_deploy.model.architecture import Architecture, Deconv, Stage, uniform
from hhrnet_deploy.model.network import HigherHRNet
from hhrnet_deploy.model.presets import PRESETS

OFFICIAL: dict[str, Any] = json.loads(Path(__file__).with_name("official_network.json").read_text())


def _network(architecture: Architecture) -> HigherHRNet:
    network = HigherHRNet(architecture, 17)
    network.load_state_dict(patterned_state(network.state_dict()))
    return network.eval()


@pytest.mark.parametrize("name", OFFICIAL["state_dicts"])
def test_state_dict_has_the_official_names_and_shapes_in_the_official_order(name: str) -> None:
    architecture, joints = (ODD, 17) if name == "odd" else (PRESETS[name].architecture, PRESETS[name].num_joints)
    with torch.device("meta"):
        network = HigherHRNet(architecture, joints)
    state = network.state_dict()
    expected = OFFICIAL["state_dicts"][name]
    assert len(state) == expected["tensors"]
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["parameters"]
    assert listing_hash(state) == expected["sha256"]


@pytest.mark.parametrize(("name", "architecture"), [("tiny", TINY), ("odd", ODD)])
def test_outputs_are_those_of_the_official_network(name: str, architecture: Architecture) -> None:
    with torch.inference_mode():
        heads = _network(architecture)(patterned_images(1, 64, 96))
    for head, expected in zip(heads, OFFICIAL["outputs"][name].values(), strict=True):
        assert list(head.shape) == expected["shape"]
        samples = head.flatten()[:: max(1, head.numel() // 12)][:12]
        np.testing.assert_allclose(samples, expected["samples"], rtol=0, atol=1e-4 * expected["std"])


def test_channels_last_gives_the_same_heads() -> None:
    network, images = _network(TINY), patterned_images(2, 64, 64)
    with torch.inference_mode():
        plain = network(images)
        network.to(memory_format=torch.channels_last)
        other = network(images.to(memory_format=torch.channels_last))
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=float(1e-4 * one.std()))


def test_a_batch_is_its_images() -> None:
    network, images = _network(TINY), patterned_images(3, 32, 64)
    with torch.inference_mode():
        together = network(images)
        alone = [network(images[n : n + 1]) for n in range(3)]
    for head, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(head, torch.cat(parts), rtol=0, atol=float(1e-4 * head.std()))


def test_fresh_weights_follow_the_official_initialisation() -> None:
    torch.manual_seed(0)
    network = HigherHRNet(uniform((16, 16, 16, 16), deconv=16), 17)
    weights = [
        m.weight.detach() for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    ]
    for weight in weights:
        assert abs(float(weight.mean())) < 0.001 * 5 / weight.numel() ** 0.5
        assert abs(float(weight.std()) / 0.001 - 1) < 5 / (2 * weight.numel()) ** 0.5
    assert all(not layer.bias.any() for layer in network.final_layers)  # type: ignore[union-attr,operator]
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)


def test_training_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = HigherHRNet(TINY, 17)
    network.load_state_dict(patterned_state(network.state_dict()))
    coarse, fine = network.train()(patterned_images(2, 64, 64))
    (coarse.square().mean() + fine.square().mean()).backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not idle


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_both_exporters_write_the_same_network(dynamo: bool) -> None:
    import onnxruntime

    if dynamo:
        pytest.importorskip("onnxscript", reason="the torch.export-based exporter needs onnxscript")
    network, images = _network(TINY), patterned_images(1, 64, 64)
    buffer = io.BytesIO()
    program = torch.onnx.export(network, (images,), None if dynamo else buffer, dynamo=dynamo, verbose=False)
    model = program.model_proto.SerializeToString() if program is not None else buffer.getvalue()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        expected = network(images)
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=float(1e-4 * want.std()))


def test_torch_export_keeps_batch_and_size_dynamic() -> None:
    network = _network(TINY)
    batch, rows, columns = (torch.export.Dim(name, min=2, max=16) for name in ("batch", "rows", "columns"))
    program = torch.export.export(
        network, (patterned_images(2, 64, 96),), dynamic_shapes=({0: batch, 2: 32 * rows, 3: 32 * columns},)
    )
    images = patterned_images(3, 128, 64)
    with torch.inference_mode():
        for got, want in zip(program.module()(images), network(images), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=float(1e-4 * want.std()))


def test_stages_that_drop_a_branch_are_refused() -> None:
    stage = Stage(modules=1, blocks=(1, 1), channels=(8, 8))
    wider = Stage(modules=1, blocks=(1, 1, 1), channels=(8, 12, 8))
    with pytest.raises(ValueError, match=r"STAGE3 has to keep the branches of STAGE2.*\[8, 8\].*\[8, 12, 8\]"):
        Architecture(stage2=stage, stage3=wider, stage4=wider, deconv=Deconv(channels=8))
