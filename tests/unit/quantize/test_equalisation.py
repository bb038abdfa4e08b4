from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_blocks import Block, figures, network_block, run

from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.equalize import equalized
from hhrnet_deploy.quantize.family import OPENVINO, TENSORRT
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.topology import CONVOLUTIONS, Topology, read_topology


def uneven() -> onnx.ModelProto:
    """The block network with channels of very different sizes, the heads undoing it."""
    model = network_block()
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in CONVOLUTIONS and node.name not in ("coarse", "fine"):
            for name in node.input[1:]:
                value = onnx.numpy_helper.to_array(constants[name]).copy()
                axis = 1 if node.op_type == "ConvTranspose" and value.ndim > 1 else 0
                factors = 3.0 ** -np.arange(value.shape[axis], dtype=np.float32)
                value *= factors.reshape([-1 if number == axis else 1 for number in range(value.ndim)])
                constants[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
        elif node.name in ("coarse", "fine"):
            value = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
            value *= (3.0 ** np.arange(value.shape[1], dtype=np.float32)).reshape(1, -1, 1, 1)
            constants[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(value, node.input[1]))
    return model


@pytest.fixture(scope="module")
def skewed() -> Topology:
    return read_topology(uneven())


def maxima(topology: Topology, image: Any) -> dict[str, Any]:
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = dict(zip(names, run(model, image), strict=True))
    return {topology.key(name): np.abs(value).max(axis=(0, 2, 3)) for name, value in values.items()}


def test_the_float_network_stays_the_same(skewed: Topology, image: Any) -> None:
    equal = equalized(skewed, maxima(skewed, image))
    onnx.checker.check_model(equal.model, full_check=True)
    for expected, got in zip(run(skewed.model, image), run(equal.model, image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_the_spread_of_a_group_shrinks_to_its_fourth_root(skewed: Topology, image: Any) -> None:
    before = maxima(skewed, image)
    after = maxima(equalized(skewed, before), image)
    # What meets in a sum is one group; its largest member tells. The factors go three quarters of the way.
    blocks = ["stem_relu", "stem", "outer", "residual", "residual_relu", "mixed", "block_conv", "block_sum", "end"]
    exchanges = ["to_high", "raised", "fused", "last_to_high", "last_raised", "last_fused", "features"]
    for tensors in (blocks + exchanges, ["inner", "inner_relu"], ["low", "low_relu"]):
        old, new = (np.max([of[name] for name in tensors], axis=0) for of in (before, after))
        np.testing.assert_allclose(new / new.max(), (old / old.max()) ** 0.25, rtol=1e-3)
        assert old.std() > 0.1 * old.max()


@pytest.mark.parametrize("family", [OPENVINO, TENSORRT], ids=lambda family: family.name)
def test_it_takes_most_of_the_noise_away(skewed: Topology, image: Any, family: Any) -> None:
    reference = run(skewed.model, image)

    def noise(topology: Topology) -> float:
        model = emit(topology, make_plan(topology), figures(topology, image), replace(family, method="minmax"))
        return float(
            np.mean(
                [np.square(b - a).sum() / np.square(a).sum() for a, b in zip(reference, run(model, image), strict=True)]
            )
        )

    assert noise(equalized(skewed, maxima(skewed, image))) < noise(skewed) / 3


def test_heads_input_and_what_meets_a_constant_keep_their_size(image: Any) -> None:
    block = Block()
    stem = block.relu("stem_relu", block.conv("stem", "image", 4))
    shifted = block.op("Add", "shifted", stem, block.constant("shift", np.full((1, 4, 1, 1), 3, np.float32)))
    coarse = block.conv("coarse", shifted, 2)
    topology = read_topology(block.model(coarse, block.conv("fine", shifted, 1)))
    equal = equalized(topology, maxima(topology, image))
    for node in equal.convolutions():
        original = topology.nodes[node.name]
        np.testing.assert_array_equal(equal.constant(node.input[1]), topology.constant(original.input[1]))


def test_dead_channels_stay_finite(image: Any) -> None:
    model = network_block()
    for tensor in model.graph.initializer:
        if tensor.name in ("inner.w", "inner.b"):
            value = onnx.numpy_helper.to_array(tensor).copy()
            value[1] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    topology = read_topology(model)
    equal = equalized(topology, maxima(topology, image))
    for expected, got in zip(run(model, image), run(equal.model, image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
    assert all(np.isfinite(equal.constant(name)).all() for node in equal.convolutions() for name in node.input[1:])
