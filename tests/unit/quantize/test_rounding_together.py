"""Weights that are rounded so that their errors cancel on the patches that occur."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper
from quantize_blocks import Block, figures, network_block, run

from hhrnet_deploy.quantize import collect
from hhrnet_deploy.quantize.calibration_set import open_calibration
from hhrnet_deploy.quantize.collect import calibrate
from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.family import ONNXRUNTIME, OPENVINO, TENSORRT, Family
from hhrnet_deploy.quantize.patches import MOST_VALUES, Moments, patches_of, sampling
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.rounding import round_together
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, read_topology
from hhrnet_deploy.quantize.weights import input_moments, quantized_weight


def correlated(rng: Any, count: int, size: int, rank: int) -> Any:
    """(count, size) rows that mostly lie in a space of ``rank`` dimensions."""
    return rng.normal(size=(count, rank)) @ rng.normal(size=(rank, size)) + 0.05 * rng.normal(size=(count, size))


def test_without_correlation_every_weight_goes_to_the_nearest_step() -> None:
    weight = np.random.default_rng(1).uniform(-127, 127, (5, 90))
    moments = np.diag(np.random.default_rng(2).uniform(0.1, 9.0, 90))
    np.testing.assert_array_equal(round_together(weight, moments, most=127), np.rint(weight))


def test_the_last_of_equal_inputs_takes_up_what_the_others_lost() -> None:
    """x0 = x1 = x2: only the sum of the weights counts, and 0.4 * 3 is nearer to 1 than to 0."""
    moments = np.ones((3, 3)) + 1e-6 * np.eye(3)
    rounded = round_together(np.full((1, 3), 0.4), moments, most=127)
    assert rounded.sum() == 1


@pytest.mark.parametrize("columns", [7, 64, 65, 200])
def test_errors_are_handed_on_as_the_naive_recursion_does(columns: int) -> None:
    """Optimal brain quantisation column by column, every time with the inverse of what is left (no blocks)."""
    rng = np.random.default_rng(columns)
    inputs = correlated(rng, 4 * columns, columns, 5)
    moments = inputs.T @ inputs / len(inputs) + 0.01 * np.eye(columns)
    weight = rng.uniform(-9, 9, (3, columns))
    left, naive = weight.copy(), np.zeros_like(weight)
    for column in range(columns):
        inverse = np.linalg.inv(moments[column:, column:])
        naive[:, column] = np.clip(np.rint(left[:, column]), -7, 7)
        error = left[:, column] - naive[:, column]
        left[:, column:] -= np.outer(error, inverse[0] / inverse[0, 0])
    np.testing.assert_array_equal(round_together(weight, moments, most=7), naive)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 9),
    kernel=st.sampled_from([1, 3]),
    family=st.sampled_from([OPENVINO, TENSORRT]),
)
def test_weights_rounded_together_keep_within_int8_and_lose_less(
    seed: int, channels: int, kernel: int, family: Family
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, channels, kernel, kernel)).astype(np.float32)
    inputs = correlated(rng, 500, weight[0].size, 2)
    moments = inputs.T @ inputs / len(inputs) + 1e-3 * np.eye(weight[0].size)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer")
    values, scale, axis = quantized_weight(weight, node, family, moments)
    nearest, same_scale, _ = quantized_weight(weight, node, family)
    assert axis == 0
    np.testing.assert_array_equal(scale, same_scale)
    assert np.abs(values.astype(int)).max() <= 127
    if family.pairs_fit:
        rows = values.astype(int).transpose(0, 2, 3, 1)
        for row in (rows.reshape(-1, channels), rows.reshape(len(rows), -1)):
            pairs = np.pad(row, [(0, 0), (0, row.shape[1] % 2)]).reshape(len(row), -1, 2)
            assert np.maximum(pairs, 0).sum(-1).max() <= 128
            assert np.minimum(pairs, 0).sum(-1).min() >= -128

    def losses(rounded: Any) -> Any:
        error = rounded.astype(np.float64) * scale[:, None, None, None] - weight
        error = error.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        return np.einsum("ok,kl,ol->o", error, moments, error)

    before, after = losses(nearest), losses(values)
    assert (after <= before * (1 + 1e-4)).all()
    if weight[0].size > 17:
        assert after.sum() < before.sum()


def test_moments_that_are_not_positive_definite_are_an_error() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        round_together(np.ones((1, 2)), np.array([[1.0, 2.0], [2.0, 1.0]]), most=127)


def windows(values: Any, kernel: int, stride: int, step: int) -> Any:
    """(H', W', kernel^2 * C) what every ``step``-th output pixel of a padded convolution reads, inside of the map."""
    side = kernel // 2
    padded = np.pad(values[0], [(0, 0), (side, side), (side, side)], constant_values=np.nan)
    cut = sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    cut = cut[:, step // 2 :: step, step // 2 :: step].transpose(1, 2, 3, 4, 0)
    rows = cut.reshape(*cut.shape[:2], -1)
    inside = np.isfinite(rows).all(axis=2)
    return rows[inside.any(axis=1)][:, inside.any(axis=0)]


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_patches_are_what_the_convolution_reads(kernel: int, stride: int, step: int) -> None:
    block = Block(channels=3)
    features = block.conv("layer", "image", 4, kernel=kernel, stride=stride)
    model = block.model(features, block.conv("fine", features, 1))
    topology = read_topology(model)
    patches = patches_of(topology, topology.nodes["layer"])
    assert patches is not None
    nodes, output, constants = sampling("cut", patches, step)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    image = np.random.default_rng(5).normal(size=(1, 3, 18, 26)).astype(np.float32)
    got = run(model, image)[2]
    expected = windows(image, kernel, stride, step)
    assert expected.size
    np.testing.assert_array_equal(got[0].transpose(1, 2, 0), expected)


def test_convolutions_of_other_shapes_are_left_alone() -> None:
    block = Block(channels=MOST_VALUES // 9 + 1)
    wide = block.conv("wide", "image", 4, kernel=3)
    features = block.conv("narrow", wide, 4, kernel=3)
    double = block.deconv("double", features, 2)
    model = block.model(block.conv("coarse", features, 1), block.conv("fine", double, 1))
    for node in model.graph.node:
        if node.name == "coarse":
            node.attribute.append(helper.make_attribute("dilations", [2, 2]))
    topology = read_topology(model)
    measured = {node.name: patches_of(topology, node) is not None for node in topology.convolutions()}
    assert measured == {"wide": False, "narrow": True, "double": False, "coarse": False, "fine": True}


def test_wide_patches_are_measured_down_to_an_eighth_of_the_size() -> None:
    """720 values; no head is measured, because none is rounded."""
    block = Block()
    tensor = "image"
    for part in (2, 4, 8, 16, 32):
        tensor = block.conv(f"to_{part}", tensor, 80, kernel=3, stride=2)
    coarse = block.conv("coarse", tensor, 1, kernel=3)
    model = block.model(coarse, block.conv("fine", block.deconv("double", tensor, 2), 1))
    topology = read_topology(model)
    measured = {patches.tensor: patches.values for patches in collect._cuts(topology, 64)}
    read = {node.name: node.input[0] for node in topology.convolutions()}
    assert measured == {read["to_2"]: 27} | {read[name]: 720 for name in ("to_4", "to_8", "to_16")}


@pytest.fixture(scope="module")
def observed(tiny_onnx: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Topology, Statistics]:
    topology = read_topology(onnx.load(str(tiny_onnx)))
    path = tmp_path_factory.mktemp("moments") / "r.npz"
    found = calibrate(topology, open_calibration(str(photos)), 64, float_input=False, path=path, threads=1)
    kept = Statistics.load(path)
    assert kept.moments.keys() == found.statistics.moments.keys()
    return found.topology, kept


def test_calibration_measures_the_patches_of_the_equalised_network(
    observed: tuple[Topology, Statistics], photos: Path
) -> None:
    import onnxruntime

    topology, statistics = observed
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    node = next(node for node in topology.convolutions() if node.name.endswith("layer1.0/conv2/Conv"))
    model.graph.output.append(helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    cut = []
    for pixels in open_calibration(str(photos)).warped(64):
        tensor = session.run([node.input[0]], {"image": pixels})[0]
        cut.append(windows(tensor, 3, 1, 1).reshape(-1, tensor.shape[1] * 9))
    rows = np.concatenate(cut).astype(np.float64)
    patches = patches_of(topology, node)
    assert patches is not None
    found = statistics.moments[patches.key]
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean(), rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.total, found.total.T)


@pytest.mark.parametrize("family", [OPENVINO, TENSORRT], ids=lambda family: family.name)
def test_moments_of_the_int8_input_have_its_rounding_noise(
    observed: tuple[Topology, Statistics], family: Family
) -> None:
    topology, statistics = observed
    node = topology.convolutions()[1]
    patches = patches_of(topology, node)
    moments = input_moments(topology, statistics, node, family)
    assert patches is not None
    assert moments is not None
    mean = statistics.moments[patches.key].mean()
    step = statistics.tensors[topology.key(node.input[0])].threshold("lp", 255 if family.unsigned else 127)
    step /= 255 if family.unsigned else 127
    extra = np.diag(moments - mean)
    np.testing.assert_allclose(extra, step**2 / 12 + 1e-4 * np.trace(mean) / len(mean), rtol=1e-3)
    np.testing.assert_array_equal(moments - np.diag(np.diag(moments)), mean - np.diag(np.diag(mean)))
    assert input_moments(topology, replace(statistics, moments={}), node, family) is None
    overflowed = Moments(np.full_like(statistics.moments[patches.key].total, np.inf), 1)
    assert input_moments(topology, replace(statistics, moments={patches.key: overflowed}), node, family) is None


@pytest.mark.parametrize("family", [OPENVINO, ONNXRUNTIME, TENSORRT], ids=lambda family: family.name)
def test_heads_lose_less_than_with_the_nearest_steps(family: Family) -> None:
    """All inputs are measured in full here; activations stay exact, so only the weights' rounding is seen."""
    topology = read_topology(network_block())
    # Neighbouring pixels hang together, as in photos.
    coarse = np.random.default_rng(4).normal(size=(1, 3, 9, 13)).astype(np.float32)
    image = coarse.repeat(4, 2).repeat(4, 3)
    statistics = figures(topology, image)
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    cuts = [patches for node in topology.convolutions() if (patches := patches_of(topology, node)) is not None]
    for number, patches in enumerate(cuts):
        nodes, output, constants = sampling(f"cut{number}", patches, 1)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants)
        model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    expected, *_ = values = run(model, image)
    for patches, cut in zip(cuts, values[2:], strict=True):
        statistics.moments[patches.key] = Moments(np.zeros([patches.values] * 2, np.float32))
        statistics.moments[patches.key].add(cut)
    plan = make_plan(topology)
    plan = replace(plan, reads=(), split=None, quantized=tuple(name for name in plan.quantized if name != "double"))

    def loss(figures_: Statistics) -> float:
        return float(np.square(run(emit(topology, plan, figures_, family), image)[0] - expected).sum())

    assert loss(statistics) < 0.9 * loss(replace(statistics, moments={}))
