"""Weights for processors that add two products of 8 bits in 16 (x86 without VNNI)."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from quantize_blocks import Block, figures, run

from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.family import ONNXRUNTIME, OPENVINO, TENSORRT, Family
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.topology import read_topology
from hhrnet_deploy.quantize.weights import quantized_weight


def node(kind: str) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", "w"], ["y"], name="layer")


def channels_last(values: Any, axis: int) -> Any:
    """(outputs, taps, inputs)."""
    outputs_first = np.moveaxis(values, axis, 0)
    return outputs_first.transpose(0, 2, 3, 1).reshape(len(outputs_first), -1, outputs_first.shape[1])


def saturated(rows: Any) -> Any:
    """Worst sums of ``vpmaddubsw`` over rows of an even length: 255 meets the weights of one sign, 0 the others."""
    pairs = rows.astype(np.int32).reshape(*rows.shape[:-1], -1, 2)
    worst = 255 * np.stack([np.maximum(pairs, 0).sum(-1), np.minimum(pairs, 0).sum(-1)])
    return (worst > np.iinfo(np.int16).max) | (worst < np.iinfo(np.int16).min)


def even(rows: Any) -> Any:
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, rows.shape[-1] % 2)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["Conv", "ConvTranspose"]),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 5),
    kernel=st.sampled_from([1, 3, 4]),
    tail=st.sampled_from([0.0, 2.0]),
)
def test_no_two_neighbours_saturate(seed: int, kind: str, inputs: int, outputs: int, kernel: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (outputs, inputs) if kind == "Conv" else (inputs, outputs)
    weight = rng.normal(size=(*shape, kernel, kernel)) * np.exp(tail * rng.normal(size=(*shape, kernel, kernel)))
    values, scale, axis = quantized_weight(weight.astype(np.float32), node(kind), OPENVINO)
    assert values.shape == weight.shape
    assert np.abs(values.astype(int)).max() <= 127
    rows = channels_last(values, axis)
    # oneDNN: pairs of channels within a tap, padded with zeros; ONNX Runtime: pairs of the whole row.
    assert not saturated(even(rows)).any()
    assert not saturated(even(rows.reshape(outputs, -1))).any()
    sides = [-1 if number == axis else 1 for number in range(weight.ndim)]
    assert np.abs(values * scale.reshape(sides) - weight).max() <= scale.max() * 0.5001
    plain = quantized_weight(weight.astype(np.float32), node(kind), replace(OPENVINO, pairs_fit=False))[1]
    assert (scale >= plain * 0.9999).all()
    assert (scale <= plain * 2.0001).all()


def test_a_pair_at_the_limit_uses_all_of_it() -> None:
    weight = np.array([63.5, 63.5, -127.0, 1.0, -1.0], np.float32).reshape(1, 5, 1, 1)
    values, scale, _ = quantized_weight(weight, node("Conv"), ONNXRUNTIME)
    assert scale == 1
    assert values.ravel().tolist() == [64, 64, -127, 1, -1]
    assert not saturated(even(values.reshape(1, -1))).any()


def test_what_saturates_without_the_rule_is_seen() -> None:
    weight = np.array([100.0, 127.0], np.float32).reshape(1, 2, 1, 1)
    without = quantized_weight(weight, node("Conv"), replace(ONNXRUNTIME, pairs_fit=False))[0]
    assert saturated(without.reshape(1, -1)).any()


def test_gpus_use_all_of_int8() -> None:
    weight = np.random.default_rng(5).normal(size=(4, 6, 3, 3)).astype(np.float32)
    values, _, _ = quantized_weight(weight, node("Conv"), TENSORRT)
    assert (np.abs(values.astype(int)).reshape(4, -1).max(axis=1) >= 126).all()


# Without VNNI: oneDNN keeps to older instructions when it is told to before it starts.
@pytest.mark.parametrize(
    ("family", "newest"),
    [(OPENVINO, "DEFAULT"), (OPENVINO, "AVX2"), (OPENVINO, "SSE41"), (ONNXRUNTIME, "DEFAULT")],
    ids=lambda value: getattr(value, "name", value),
)
def test_processors_compute_what_the_graph_says(family: Family, newest: str, tmp_path: Path) -> None:
    """Large activations on weights of one sign: what saturates anywhere is far off here."""
    block = Block(channels=8, size=16)
    block.rng = np.random.default_rng(2)
    first = block.relu("first_relu", block.conv("first", "image", 16))
    second = block.relu("second_relu", block.conv("second", first, 16, kernel=3))
    model = block.model(block.conv("coarse", second, 2), block.conv("fine", block.deconv("double", second, 8), 1))
    for constant in model.graph.initializer:
        if constant.name.endswith(".w"):
            values = np.abs(onnx.numpy_helper.to_array(constant))
            constant.CopyFrom(onnx.numpy_helper.from_array(values.clip(0.9 * values.max()), constant.name))
    topology = read_topology(model)
    image = np.full((1, 8, 16, 16), 1, np.float32)
    typed = emit(topology, make_plan(topology), figures(topology, image), family)
    got = through_openvino(typed, image, newest, tmp_path) if family is OPENVINO else through_onnxruntime(typed, image)
    for expected, value in zip(run(typed, image), got, strict=True):
        np.testing.assert_allclose(value, expected, rtol=0.02)


OPENVINO_RUN = """
import sys
import numpy as np, openvino
graph, image, heads = sys.argv[1:]
compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.savez(heads, *compiled([np.load(image)]).values())
"""


def through_openvino(model: onnx.ModelProto, image: Any, newest: str, folder: Path) -> list[Any]:
    onnx.save(model, str(folder / "typed.onnx"))
    np.save(folder / "image.npy", image)
    subprocess.run(
        [
            sys.executable,
            "-c",
            OPENVINO_RUN,
            *(str(folder / name) for name in ("typed.onnx", "image.npy", "heads.npz")),
        ],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": newest},
        check=True,
    )
    with np.load(folder / "heads.npz") as heads:
        return list(heads.values())


def through_onnxruntime(model: onnx.ModelProto, image: Any) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": image}))
