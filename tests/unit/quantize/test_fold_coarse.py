"""The deconvolution of features and coarse as one of the features alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from quantize_blocks import Block, figures, network_block, run
from torch.nn.functional import conv_transpose2d

from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.family import OPENVINO
from hhrnet_deploy.quantize.fold import features_part
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.topology import Topology, read_topology


def deconvolve(values: Any, weight: Any) -> Any:
    return conv_transpose2d(torch.tensor(values), torch.tensor(weight), stride=2, padding=1).double().numpy()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (4, 3), (7, 8)])
def test_both_ways_give_the_same_numbers_up_to_the_border(network: Topology, height: int, width: int) -> None:
    split = make_plan(network).split
    assert split is not None
    folded = features_part(network, split, fold=True)
    assert folded.bias_map is not None
    features = np.random.default_rng(height).normal(size=(2, 4, height, width)).astype(np.float32)
    matrix, bias = network.constant("coarse.w")[:, :, 0, 0], network.constant("coarse.b")
    coarse = np.einsum("oc,nchw->nohw", matrix, features) + bias[:, None, None]
    expected = deconvolve(np.concatenate([features, coarse], axis=1), network.constant("double.w"))
    ones = np.ones((1, 1, height, width), np.float32)
    got = deconvolve(features, folded.weight) + deconvolve(ones, folded.bias_map)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # The bias tells: a map, not a constant.
    assert height * width == 1 or np.ptp(deconvolve(ones, folded.bias_map)) > 0.01 * np.abs(expected).max()


def test_the_emitted_graph_is_the_network_but_for_rounding(network: Topology, image: Any) -> None:
    """Only the deconvolution quantised, and its features and weights put back as they were."""
    plan = make_plan(network)
    assert plan.split is not None
    alone = replace(plan, quantized=("double",), reads=tuple(read for read in plan.reads if read.node == "double"))
    model = emit(network, alone, figures(network, image), replace(OPENVINO, fold_relu=False))
    node = next(node for node in model.graph.node if node.name == "double/features")
    assert list(node.input) == ["features/dequantized", "double/features/weight_dequantized", "double.b"]
    node.input[0], node.input[1] = "features", "exact"
    weight = features_part(network, plan.split, fold=True).weight
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "exact"))
    for expected, got in zip(run(network.model, image), run(model, image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("size", [None, 16])
def test_fixed_and_dynamic_graphs_give_the_same_numbers(size: int | None) -> None:
    topology = read_topology(network_block(size=size))
    image = np.random.default_rng(5).normal(size=(2, 3, 16, 16)).astype(np.float32)
    model = emit(topology, make_plan(topology), figures(topology, image), replace(OPENVINO, method="minmax"))
    onnx.checker.check_model(model, full_check=True)
    for expected, got in zip(run(topology.model, image), run(model, image), strict=True):
        assert np.square(got - expected).sum() < 0.02 * np.square(expected).sum()


def test_a_head_of_three_by_three_keeps_its_own_deconvolution() -> None:
    block = Block()
    features = block.relu("features", block.conv("stem", "image", 4))
    coarse = block.conv("coarse", features, 2, kernel=3)
    double = block.relu("double_relu", block.deconv("double", block.concat("joined", features, coarse), 4))
    topology = read_topology(block.model(coarse, block.conv("fine", double, 1)))
    plan = make_plan(topology)
    assert plan.split is not None
    part = features_part(topology, plan.split, fold=True)
    assert part.bias_map is None
    np.testing.assert_array_equal(part.weight, topology.constant("double.w")[:4])
    model = emit(topology, plan, figures(topology, np.ones((1, 3, 8, 8), np.float32)), OPENVINO)
    assert next(node for node in model.graph.node if node.name == "double/coarse").input[0] == "coarse"
