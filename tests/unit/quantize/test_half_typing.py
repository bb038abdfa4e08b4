from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, shape_inference
from quantize_blocks import run

from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.family import TENSORRT
from hhrnet_deploy.quantize.half import emulate, kept_nodes, layers_out_of_range, to_half
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.statistics import Statistics, TensorStatistics
from hhrnet_deploy.quantize.topology import Topology, read_topology


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_everything_between_the_borders_is_half_and_the_heads_leave_as_float(network: Topology) -> None:
    model = to_half(network.model, network.entry)
    onnx.checker.check_model(model, full_check=True)
    found = types(model)
    assert found["stem"] == found["double"] == found["last_relu"] == TensorProto.FLOAT16
    assert found["coarse"] == found["fine"] == TensorProto.FLOAT
    assert {t.data_type for t in model.graph.initializer if t.name.endswith(("w/half", "b/half"))} == {
        TensorProto.FLOAT16
    }
    scales = [t for t in model.graph.initializer if t.name == "raised.scales"]
    assert [t.data_type for t in scales] == [TensorProto.FLOAT]


def test_int8_graphs_become_half_with_the_same_numbers(network: Topology, measured: Statistics, image: Any) -> None:
    quantised = emit(network, make_plan(network), measured, TENSORRT)
    for tensor in quantised.graph.initializer:
        if tensor.name.endswith("scale"):
            value = numpy_helper.to_array(tensor)
            np.testing.assert_array_equal(value.astype(np.float16).astype(np.float32), value)
    typed = to_half(quantised, network.entry)
    onnx.checker.check_model(typed, full_check=True)
    assert {entry.version for entry in typed.opset_import if entry.domain == ""} == {19}
    assert {t.data_type for t in typed.graph.initializer if "scale/half" in t.name} == {TensorProto.FLOAT16}
    for expected, got in zip(run(quantised, image), run(typed, image), strict=True):
        assert got.dtype == np.float32
        assert np.square(got - expected).sum() / np.square(expected).sum() < 1e-3


def test_nodes_that_are_kept_compute_in_float(network: Topology) -> None:
    found = types(to_half(network.model, network.entry, keep=kept_nodes(network, ["inner_relu"])))
    assert found["inner_relu"] == found["outer"] == TensorProto.FLOAT
    assert found["inner"] == found["residual"] == TensorProto.FLOAT16


def test_tensors_near_the_end_of_the_range_are_found(network: Topology, measured: Statistics) -> None:
    assert layers_out_of_range(network, measured) == {}
    tensors = {**measured.tensors, "inner_relu": TensorStatistics(0.0, 40000.0), "coarse": TensorStatistics(-4e4, 1.0)}
    found = layers_out_of_range(network, Statistics(measured.header, tensors))
    assert found == {"inner_relu": 40000.0, "coarse": 40000.0}
    assert kept_nodes(network, found) == {"inner_relu", "outer", "coarse", "joined"}


def test_emulation_rounds_every_layer_and_the_weights(network: Topology, image: Any) -> None:
    half = emulate(network.model, network.entry)
    onnx.checker.check_model(half, full_check=True)
    names = ["stem", "stem_relu", "outer", "fused", "coarse", "double"]
    for name in names:
        half.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    values = dict(zip(["coarse0", "fine0", *names], run(half, image), strict=True))
    for name in names:
        np.testing.assert_array_equal(values[name], values[name].astype(np.float16).astype(np.float32))
    weight = next(t for t in half.graph.initializer if t.name == "inner.w/rounded")
    expected = network.constant("inner.w").astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)
    exact = run(network.model, image)
    assert 0 < np.abs(values["fine0"] - exact[1]).max() < 0.02 * np.abs(exact[1]).max()


def test_emulation_leaves_kept_layers_exact(network: Topology, image: Any) -> None:
    everything = {node.name for node in network.nodes.values()}
    for expected, got in zip(
        run(network.model, image), run(emulate(network.model, network.entry, keep=everything), image), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_onnx_flip"])
def test_exported_graphs_become_half(request: pytest.FixtureRequest, fixture: str) -> None:
    path: Path = request.getfixturevalue(fixture)
    topology = read_topology(onnx.load(str(path)))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    reference = run(topology.model, pixels)
    for model in (to_half(topology.model, topology.entry), emulate(topology.model, topology.entry)):
        onnx.checker.check_model(model, full_check=True)
        for expected, got in zip(reference, run(model, pixels), strict=True):
            assert got.dtype == np.float32
            assert np.square(got - expected).sum() / np.square(expected).sum() < 1e-4
