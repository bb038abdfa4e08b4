from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.errors import BundleError, InputError
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.inspect import compare, inspect
from hhrnet_deploy.targets.graph_cost import assign_work, read_cost
from hhrnet_deploy.targets.target import Layer


@pytest.fixture(scope="module")
def openvino(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_engine(tiny_onnx, tmp_path_factory.mktemp("e") / "ov", target="openvino").path)


@pytest.fixture(scope="module")
def onnxruntime(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_engine(tiny_onnx, tmp_path_factory.mktemp("e") / "ort", target="onnxruntime").path)


def save(path: Path, nodes: list[Any], constants: dict[str, Any], input_type: int, shape: list[Any]) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save_model

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", input_type, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def quantized_pair(path: Path) -> Path:
    """An int8 convolution 3 -> 4, 3x3, stride 2; then a float one 4 -> 5 fed by int8 weights only; then transposed."""
    from onnx import TensorProto, helper

    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
        node("DequantizeLinear", ["w1", "scale", "zero"], ["dw1"], name="dw1"),
        node("Conv", ["dq", "dw1"], ["a"], name="first", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("DequantizeLinear", ["w2", "scale", "zero"], ["dw2"], name="dw2"),
        node("Conv", ["a", "dw2"], ["b"], name="second"),
        node("ConvTranspose", ["b", "w3"], ["y"], name="third", strides=[2, 2]),
    ]
    constants = {
        "scale": np.array(0.1, np.float32),
        "zero": np.array(0, np.int8),
        "w1": np.ones((4, 3, 3, 3), np.int8),
        "w2": np.ones((5, 4, 1, 1), np.int8),
        "w3": np.ones((5, 6, 2, 2), np.float32),
    }
    return save(path, nodes, constants, TensorProto.FLOAT, ["N", 3, "H", "W"])


def test_multiply_adds_and_precision_of_each_convolution(tmp_path: Path) -> None:
    cost, nodes = read_cost(quantized_pair(tmp_path / "g.onnx"), (32, 64))
    found = {node.name: (node.precision, node.multiply_adds, node.shape) for node in nodes}
    pixels = 16 * 32
    assert found == {
        "first": ("int8", 4 * 3 * 9 * pixels, (1, 4, 16, 32)),
        "second": ("fp32", 5 * 4 * pixels, (1, 5, 16, 32)),
        "third": ("fp32", 5 * 6 * 4 * pixels, (1, 6, 32, 64)),
    }
    assert cost.multiply_adds == (108 + 20 + 120) * pixels
    assert cost.weights_bytes == 4 + 1 + 108 + 20 + 4 * 120


def test_activations_are_what_lives_at_one_time(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Relu", ["image"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    path = save(tmp_path / "g.onnx", nodes, {}, TensorProto.FLOAT, ["N", 3, 8, 4])
    cost, _ = read_cost(path, (99, 99))
    assert (cost.height, cost.width) == (8, 4)
    # image and a, then a and b, then a, b and c.
    assert cost.activations_bytes == 3 * (3 * 8 * 4) * 4


def test_the_networks_own_count_agrees(tiny_model: Any, tiny_onnx: Path, tiny_onnx_flip: Path) -> None:
    from hhrnet_deploy.model.cost import cost_of

    expected = cost_of(tiny_model.preset.architecture, 17, 96).multiply_adds
    assert read_cost(tiny_onnx, (96, 96))[0].multiply_adds == expected
    flip, _ = read_cost(tiny_onnx_flip, (96, 96))
    assert flip.multiply_adds == 2 * expected
    assert flip.activations_bytes is not None


def test_half_precision_shows(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["h"], name="conv"),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = {"w": np.ones((2, 3, 1, 1), np.float16)}
    _, (node,) = read_cost(save(tmp_path / "g.onnx", nodes, weights, TensorProto.FLOAT, ["N", 3, "H", "W"]), (8, 8))
    assert node.precision == "fp16"


def test_work_goes_to_the_layer_that_computes_it(tmp_path: Path) -> None:
    _, nodes = read_cost(quantized_pair(tmp_path / "g.onnx"), (32, 32))
    layers = (
        Layer(name="pad", type="kgen", precision="fp32", nodes=("first",)),
        Layer(name="first_myl0_1", type="correlation", precision="int8", nodes=("first", "relu")),
        Layer(name="b", type="Convolution", precision="f32"),
    )
    glue, first, second = assign_work(layers, nodes)
    assert glue.work == {}
    assert first.work == {"first": 108 * 256}
    assert second.work == {"second": 20 * 256}, "by the name of its tensor"


def test_the_only_layer_without_a_name_is_the_only_node_without_one(tmp_path: Path) -> None:
    _, nodes = read_cost(quantized_pair(tmp_path / "g.onnx"), (32, 32))
    named = tuple(Layer(name=name, type="Convolution", precision="u8") for name in ("first", "second"))
    renamed = Layer(name="ConvolutionBackpropData_15", type="Deconvolution", precision="u8")
    glue = Layer(name="reorder", type="Reorder", precision="u8")
    third = next(node.multiply_adds for node in nodes if node.name == "third")
    assert [layer.work for layer in assign_work((glue, renamed, *named), nodes)][:2] == [{}, {"third": third}]
    # Two that might be meant: none is.
    assert not any("third" in layer.work for layer in assign_work((renamed, renamed, *named), nodes))


def test_an_engine_is_explained(openvino: Path, tiny_onnx: Path) -> None:
    report = inspect(openvino)
    assert (report.kind, report.about["target"], report.about["precision"]) == ("engine", "openvino", "fp32")
    assert [(share.precision, share.convolutions, share.share) for share in report.shares] == [("fp32", 54, 1.0)]
    assert set(report.sha256) == {"model.xml", "model.bin", "layers.json"}
    assert "hhrnet build" in report.about["rebuild"]
    assert report.cost == inspect(tiny_onnx).cost
    assert sum(c.multiply_adds for c in report.convolutions) == report.shares[0].multiply_adds


def test_a_graph_is_explained(tiny_onnx: Path) -> None:
    report = inspect(tiny_onnx)
    assert report.kind == "onnx"
    assert report.about["inputs"] == {"image": "uint8 (batch, height, width, 3)"}
    assert (report.about["preset"], report.about["skeleton"]) == ("tiny_coco", "coco")
    assert (report.layers["Conv"], report.layers["ConvTranspose"]) == (53, 1)


def test_graphs_of_other_programs_are_explained_too(tmp_path: Path) -> None:
    report = inspect(quantized_pair(tmp_path / "g.onnx"))
    assert {share.precision: share.convolutions for share in report.shares} == {"int8": 1, "fp32": 2}
    assert sum(share.share for share in report.shares) == pytest.approx(1)


def test_what_no_layer_names_is_said(openvino: Path, tmp_path: Path) -> None:
    from hhrnet_deploy.pipeline.inspect import Convolution, _shares

    shares = _shares((Convolution(name="a", precision="int8", multiply_adds=30),), 40)
    assert [(share.precision, share.share) for share in shares] == [("int8", 0.75), ("not listed", 0.25)]


def test_two_engines_are_compared(openvino: Path, onnxruntime: Path, tmp_path: Path, tiny_onnx: Path) -> None:
    same = compare(inspect(openvino), inspect(openvino))
    assert (same.changes, same.convolutions) == ((), ())
    changes = {change.name: (change.a, change.b) for change in compare(inspect(openvino), inspect(onnxruntime)).changes}
    assert changes["target"] == ("openvino", "onnxruntime")
    assert changes["hints.INFERENCE_PRECISION_HINT"] == ("f32", None)
    assert "preset" not in changes
    quantized = inspect(quantized_pair(tmp_path / "g.onnx"))
    convolutions = {change.name: (change.a, change.b) for change in compare(inspect(tiny_onnx), quantized).convolutions}
    assert convolutions["first"] == (None, "int8")
    assert convolutions["/conv1/Conv"] == ("fp32", None)


@pytest.mark.parametrize(
    ("name", "message"), [("none.onnx", "no ONNX file"), ("none", "no engine"), ("t.txt", "neither")]
)
def test_other_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(InputError, match=message):
        inspect(tmp_path / name)


def test_broken_files_are_refused(openvino: Path, tmp_path: Path) -> None:
    import shutil

    (tmp_path / "a.onnx").write_text("not a graph")
    with pytest.raises(InputError, match="not a readable ONNX"):
        inspect(tmp_path / "a.onnx")
    copy = shutil.copytree(openvino, tmp_path / "copy")
    (copy / "layers.json").write_text("[]")
    with pytest.raises(BundleError, match=r"layers\.json is truncated"):
        inspect(copy)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["inspect", *words])


def test_the_command_prints_and_emits_json(openvino: Path, onnxruntime: Path, tiny_onnx: Path) -> None:
    text = run(str(openvino))
    assert text.exit_code == 0, text.output
    assert "100.00 %" in text.stdout
    assert "multiply-adds" in text.stdout
    layers = run(str(tiny_onnx), "--layers")
    assert "/conv1/Conv" in layers.stdout
    assert json.loads(run(str(tiny_onnx), "--json").stdout)["kind"] == "onnx"
    difference = json.loads(run("--diff", str(openvino), str(onnxruntime), "--json").stdout)
    assert difference["a"]["about"]["target"] == "openvino"
    assert "target" in run("--diff", str(openvino), str(onnxruntime)).stdout
    assert "are the same" in run("--diff", str(openvino), str(openvino)).stdout


@pytest.mark.parametrize("words", [[], ["a", "--diff", "b", "c"]])
def test_one_or_two_are_looked_at(words: list[str]) -> None:
    assert run(*words).exit_code == 2
