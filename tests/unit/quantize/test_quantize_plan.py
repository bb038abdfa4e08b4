"""Placement, node by node, on tiny graphs of each kind of block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantize_blocks import Block, figures, network_block, run

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.cost import int8_share, multiply_adds
from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.family import OPENVINO, TENSORRT
from hhrnet_deploy.quantize.plan import BUDGET, HEAD, Role, make_plan
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, read_topology


def reads(topology: Topology, **options: Any) -> dict[tuple[str, int], tuple[str, str]]:
    return {(r.node, r.index): (r.tensor, r.role.value) for r in make_plan(topology, **options).reads}


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


def constant(model: onnx.ModelProto, name: str) -> Any:
    return numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == name))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]


def test_every_block_is_placed_as_the_plan_says(network: Topology) -> None:
    assert reads(network) == {
        ("stem", 0): ("image", "convolution"),
        ("inner", 0): ("stem_relu", "convolution"),
        ("outer", 0): ("inner_relu", "convolution"),
        ("residual", 0): ("outer", "branch"),
        ("residual", 1): ("stem_relu", "skip"),
        ("low", 0): ("residual_relu", "convolution"),
        ("to_high", 0): ("low_relu", "convolution"),
        ("raised", 0): ("to_high", "resize"),
        ("fused", 0): ("residual_relu", "skip"),
        ("fused", 1): ("raised", "skip"),
        ("last_to_high", 0): ("low_relu", "convolution"),
        # Not what the last exchange enlarges, nor the convolution's side of the block before: coarse reads that sum.
        ("block_conv", 0): ("mixed", "convolution"),
        ("block_sum", 1): ("mixed", "skip"),
        ("last_fused", 0): ("end", "skip"),
        ("double", 0): ("features", "convolution"),
        ("last_inner", 0): ("double_relu", "convolution"),
        ("last_outer", 0): ("last_inner_relu", "convolution"),
        # Not the convolution's side of the last sum: only the fine head reads it.
        ("last", 1): ("double_relu", "skip"),
    }


def test_heads_and_what_only_they_read_stay_in_higher_precision(network: Topology) -> None:
    plan = make_plan(network)
    assert plan.kept == {"coarse": HEAD, "fine": HEAD}
    assert not {"coarse", "fine", "last_relu"} & set(plan.tensors)


def test_a_kept_layer_neither_reads_nor_writes_eight_bits(network: Topology) -> None:
    plan = make_plan(network, keep=["to_high"])
    assert plan.kept["to_high"] == BUDGET
    touched = {(read.node, read.tensor) for read in plan.reads}
    assert not touched & {("to_high", "low_relu"), ("raised", "to_high"), ("fused", "raised")}
    assert ("fused", "residual_relu") in touched


def test_a_kept_deconvolution_is_not_split(network: Topology) -> None:
    assert make_plan(network).split is not None
    assert make_plan(network, keep=["double"]).split is None


def test_a_name_that_is_no_convolution_is_an_error(network: Topology) -> None:
    with pytest.raises(InputError, match="no convolution 'stem_relu'"):
        make_plan(network, keep=["stem_relu"])


def test_sums_of_sums_are_a_role_of_their_own() -> None:
    block = Block()
    first = block.relu("first_relu", block.conv("first", "image", 4))
    chain = block.add("chain", block.add("partial", first, block.conv("a", first, 4)), block.conv("b", first, 4))
    done = block.relu("done", chain)
    coarse = block.conv("coarse", done, 2)
    topology = read_topology(block.model(coarse, block.conv("fine", done, 1)))
    assert reads(topology)["chain", 0] == ("partial", "sum")
    model = emit(topology, make_plan(topology), figures(topology, np.ones((1, 3, 8, 8), np.float32)), OPENVINO)
    # Partial sums stay inside one kernel: no Q/DQ between the two additions.
    assert node(model, "chain").input[0] == "partial"
    assert node(model, "chain").input[1] == "b/dequantized"


def test_weights_have_a_scale_per_output_channel_and_biases_stay(network: Topology, measured: Statistics) -> None:
    model = emit(network, make_plan(network), measured, replace(OPENVINO, pairs_fit=False))
    weight = network.constant("outer.w")
    scale = constant(model, "outer/weight_scale")
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    values = constant(model, "outer/weight_quantized")
    assert values.dtype == np.int8
    assert np.abs(values).max() == 127
    np.testing.assert_allclose(values * scale[:, None, None, None], weight, atol=scale.max() / 2 * 1.001)
    assert list(node(model, "outer").input) == ["inner_relu/dequantized", "outer/weight_dequantized", "outer.b"]


def test_transposed_weights_have_their_scales_along_the_output_channels(
    network: Topology, measured: Statistics
) -> None:
    model = emit(network, make_plan(network), measured, TENSORRT)
    weight = network.constant("double.w")[:4]
    scale = constant(model, "double/features/weight_scale")
    assert scale.shape == (4,)
    dequantised = constant(model, "double/features/weight_quantized") * scale[None, :, None, None]
    np.testing.assert_allclose(dequantised, weight, atol=scale.max() * 0.501)
    pair = node(model, "double/features/weight_DequantizeLinear")
    assert [a.i for a in pair.attribute if a.name == "axis"] == [1]


def test_the_split_deconvolution_is_exact_without_quantisation(network: Topology, image: Any) -> None:
    whole = run(network.model, image)
    plan = make_plan(network)
    assert plan.split is not None
    # The emitted graph with nothing quantised but the split: every role left out, weights in float.
    block = network_block()
    parts = onnx.ModelProto()
    parts.CopyFrom(block)
    split, weight = plan.split, network.constant("double.w")
    target = next(item for item in parts.graph.node if item.name == "double")
    features, coarse = onnx.NodeProto(), onnx.NodeProto()
    features.CopyFrom(target)
    coarse.CopyFrom(target)
    assert (split.features, split.coarse, split.channels) == ("features", "coarse", 4)
    features.input[:], features.output[0], features.name = [split.features, "wf", "double.b"], "f", "f"
    del coarse.input[2:]
    coarse.input[:], coarse.output[0], coarse.name = [split.coarse, "wc"], "c", "c"
    total = onnx.helper.make_node("Add", ["f", "c"], ["double"], name="total")
    nodes = [x for item in parts.graph.node for x in ([features, coarse, total] if item.name == "double" else [item])]
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes if item.name != "joined"]
    del parts.graph.node[:]
    parts.graph.node.extend(copies)
    parts.graph.initializer.extend(
        [numpy_helper.from_array(weight[:4].copy(), "wf"), numpy_helper.from_array(weight[4:].copy(), "wc")]
    )
    for expected, got in zip(whole, run(parts, image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


def test_coarse_reaches_the_deconvolution_unquantised(network: Topology, measured: Statistics) -> None:
    model = emit(network, make_plan(network), measured, TENSORRT)
    coarse = node(model, "double/coarse")
    assert coarse.input[0] == "coarse"
    np.testing.assert_array_equal(constant(model, coarse.input[1]), network.constant("double.w")[4:])
    assert len(coarse.input) == 2
    assert node(model, "double/features").input[2] == "double.b"
    assert "Concat" not in kinds(model)


def test_cpus_read_no_coarse_in_the_deconvolution(network: Topology, measured: Statistics) -> None:
    model = emit(network, make_plan(network), measured, OPENVINO)
    assert [item.name for item in model.graph.node if "coarse" in item.input] == []
    assert node(model, "double/features").input[0] == "features/dequantized"
    assert constant(model, node(model, "double/coarse").input[1]).shape == (1, 4, 4, 4)


def test_tensors_after_a_relu_are_unsigned_for_cpus_and_signed_for_tensorrt(
    network: Topology, measured: Statistics
) -> None:
    plan = make_plan(network)
    cpu, gpu = (emit(network, plan, measured, family) for family in (OPENVINO, TENSORRT))
    zeros = {name: constant(cpu, f"{name}/zero_point") for name in plan.tensors}
    assert {name for name, zero in zeros.items() if zero.dtype == np.uint8} == {
        *(
            "stem_relu",
            "inner_relu",
            "residual_relu",
            "low_relu",
            "mixed",
            "end",
            "features",
            "double_relu",
            "last_inner_relu",
        )
    }
    assert all(zero == 0 for zero in zeros.values())
    gpu_zeros = [t for t in gpu.graph.initializer if t.name.endswith("zero_point")]
    assert {t.data_type for t in gpu_zeros} == {onnx.TensorProto.INT8}
    assert all(not numpy_helper.to_array(t).any() for t in gpu_zeros)


def test_a_resize_and_what_it_copies_share_one_scale(network: Topology, measured: Statistics) -> None:
    model = emit(network, make_plan(network), measured, OPENVINO)
    assert constant(model, "raised/scale") == constant(model, "to_high/scale")
    assert node(model, "raised").input[0] == "to_high/dequantized"
    assert node(model, "fused").input[1] == "raised/dequantized"


def test_tensorrt_folds_the_convolution_into_the_sum(network: Topology, measured: Statistics) -> None:
    model = emit(network, make_plan(network), measured, TENSORRT)
    assert list(node(model, "residual").input) == ["outer", "stem_relu/dequantized"]
    assert "outer/QuantizeLinear" not in {item.name for item in model.graph.node}


def test_a_relu_that_only_clips_before_uint8_is_left_out(network: Topology, measured: Statistics, image: Any) -> None:
    from dataclasses import replace

    plan = make_plan(network)
    folded, plain = (
        emit(network, plan, measured, replace(OPENVINO, fold_relu=fold, matmul_heads=False)) for fold in (True, False)
    )
    assert kinds(folded).count("Relu") < kinds(plain).count("Relu")
    for expected, got in zip(run(plain, image), run(folded, image), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_heads_as_matrix_products_give_the_same_numbers() -> None:
    from dataclasses import replace

    topology = read_topology(network_block(size=16))
    image = np.random.default_rng(5).normal(size=(1, 3, 16, 16)).astype(np.float32)
    plan, numbers = make_plan(topology), figures(topology, image)
    product, convolution = (emit(topology, plan, numbers, replace(OPENVINO, matmul_heads=use)) for use in (True, False))
    assert kinds(product).count("MatMul") == 2
    onnx.checker.check_model(product, full_check=True)
    for expected, got in zip(run(convolution, image), run(product, image), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_numbers_stay_close_and_equal_inputs_give_equal_bytes(
    network: Topology, measured: Statistics, image: Any
) -> None:
    plan = make_plan(network)
    for family in (OPENVINO, TENSORRT):
        first, second = (
            emit(network, plan, measured, replace(family, method="minmax")).SerializeToString(deterministic=True)
            for _ in range(2)
        )
        assert first == second
        model = onnx.ModelProto.FromString(first)
        onnx.checker.check_model(model, full_check=True)
        for expected, got in zip(run(network.model, image), run(model, image), strict=True):
            error = np.square(got - expected).sum() / np.square(expected).sum()
            assert 0 < error < 0.02


def test_an_uncovered_tensor_is_an_error(network: Topology, measured: Statistics) -> None:
    tensors = {key: value for key, value in measured.tensors.items() if key != "inner_relu"}
    with pytest.raises(InputError, match="does not cover the tensor inner_relu"):
        emit(network, make_plan(network), Statistics(measured.header, tensors), OPENVINO)


def test_work_is_counted_as_it_is_done(network: Topology) -> None:
    work = multiply_adds(network, 64)
    assert work["stem"] == 3 * 4 * 9 * 64 * 64
    assert work["low"] == 4 * 6 * 9 * 32 * 32
    # A transposed convolution touches each input pixel once per tap.
    assert work["double"] == 6 * 4 * 16 * 64 * 64
    plan = make_plan(network)
    coarse = 2 * 4 * 16 * 64 * 64
    quantized, total = sum(work[name] for name in plan.quantized) - coarse, sum(work.values())
    assert int8_share(network, plan, 64) == pytest.approx(quantized / total)
    assert int8_share(network, plan, 64, fold_coarse=True) == pytest.approx(quantized / (total - coarse))


def test_graphs_that_cannot_be_quantised_say_why(network: Topology, measured: Statistics) -> None:
    with pytest.raises(InputError, match="quantised already"):
        read_topology(emit(network, make_plan(network), measured, OPENVINO))
    unnamed = onnx.ModelProto()
    unnamed.CopyFrom(network.model)
    unnamed.graph.node[0].name = ""
    with pytest.raises(InputError, match="without names"):
        read_topology(unnamed)


def test_the_digest_follows_the_weights(network: Topology) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(network.model)
    assert read_topology(changed).digest() == network.digest()
    weight = next(t for t in changed.graph.initializer if t.name == "inner.b")
    value = numpy_helper.to_array(weight).copy()
    value[0] += 1e-3
    weight.CopyFrom(numpy_helper.from_array(value, "inner.b"))
    assert read_topology(changed).digest() != network.digest()


def test_roles_are_all_placed_somewhere() -> None:
    assert TENSORRT.roles < set(Role)
    assert Role.SUM not in OPENVINO.roles
