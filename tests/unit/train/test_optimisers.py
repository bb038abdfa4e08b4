"""Which parameters which optimiser takes, and what Muon's steps are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.train.optimiser import MuonAndAdam, make_optimiser, orthogonal
from hhrnet_deploy.train.recipe import Optimiser

RATE = 0.01


def _step(network: nn.Module, options: Optimiser) -> torch.optim.Optimizer:
    optimiser = make_optimiser(options, network)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimiser.step()
    return optimiser


def _small() -> nn.Module:
    torch.manual_seed(1)
    return nn.ModuleDict(
        {"conv1": nn.Conv2d(3, 8, 3), "inner": nn.Conv2d(8, 12, 3), "final_layers": nn.Conv2d(12, 4, 1)}
    )


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("shape", [(3, 32, 288), (2, 256, 64), (1, 17, 17)])
def test_orthogonal_keeps_directions_and_levels_singular_values(
    shape: tuple[int, ...], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hhrnet_deploy.train.optimiser.has_bf16", lambda _device: bf16)
    torch.manual_seed(0)
    matrices = torch.randn(shape) * 1e-4
    made = orthogonal(matrices)
    assert made.dtype == torch.float32
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = (left.mT @ made @ right.mT).diagonal(dim1=1, dim2=2)
    assert inside.median() == pytest.approx(1.0, abs=0.25)
    assert torch.linalg.svdvals(made).max() < 1.3
    # Square random matrices have singular values near 0, which five iterations do not lift to 1.
    assert inside.min() > (0.6 if shape[1] != shape[2] else -0.05)


def test_orthogonal_of_nothing_is_nothing() -> None:
    assert not orthogonal(torch.zeros(2, 4, 9)).any()


def test_muon_takes_inner_convolutions_only() -> None:
    before, network = _small(), _small()
    adam = _small()
    _step(network, Optimiser(kind="muon", lr=RATE))
    _step(adam, Optimiser(lr=RATE))
    mine, theirs, old = (dict(one.named_parameters()) for one in (network, adam, before))
    for name in old:
        change = mine[name] - old[name]
        same = torch.equal(mine[name], theirs[name])
        assert same is (name != "inner.weight"), name
        # Adam's first step is the rate in every element; Muon's is a fifth of it, root mean square.
        size = RATE * (0.2 if name == "inner.weight" else 1.0)
        assert change.square().mean().sqrt().item() == pytest.approx(size, rel=0.25), name


def test_every_parameter_of_the_network_moves_and_frozen_ones_stay() -> None:
    network = load_model("small_256").train()
    network.layer1.requires_grad_(False)
    before = copy.deepcopy(network)
    _step(network, Optimiser(kind="muon", lr=RATE))
    for (name, parameter), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old) is name.startswith("layer1."), name


def test_a_transposed_convolution_is_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(2)
    gradient = torch.randn(6, 20, 4, 4)
    weights = [nn.Parameter(torch.zeros(6, 20, 4, 4)), nn.Parameter(torch.zeros(20, 6, 4, 4))]
    weights[0].grad, weights[1].grad = gradient, gradient.transpose(0, 1).contiguous()
    rest = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=RATE)
    MuonAndAdam([(weights[0], True), (weights[1], False)], rest, lr=RATE, weight_decay=0).step()
    torch.testing.assert_close(weights[0], weights[1].transpose(0, 1))


def test_rate_and_decay_reach_both_parts() -> None:
    network = _small()
    optimiser = make_optimiser(Optimiser(kind="muon", lr=RATE, weight_decay=0.5), network)
    for group in optimiser.param_groups:
        group["lr"] = 0.5 * RATE
    old = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for parameter, before in zip(network.parameters(), old.parameters(), strict=True):
        torch.testing.assert_close(parameter, before * (1 - 0.5 * RATE * 0.5))


def test_state_goes_on_where_it_was() -> None:
    options = Optimiser(kind="muon", lr=RATE)
    one = _small()
    first = _step(one, options)
    other = copy.deepcopy(one)
    second = make_optimiser(options, other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimiser, network in ((first, one), (second, other)):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
