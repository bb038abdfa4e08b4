from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.export.exporting import export_onnx
from hhrnet_deploy.export.samples import parity_shapes, sample_batches

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def images(n: int, h: int, w: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)


def torch_heads(model: Any, pixels: np.ndarray) -> list[np.ndarray]:
    """Independent of the runner: normalised here, straight through the module."""
    planes = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return [head.numpy() for head in model(torch.from_numpy(np.ascontiguousarray(planes)))]


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 96, 160)])
def test_plain_pixels_give_the_heads_of_the_module(
    tiny_model: Any, tiny_onnx: Path, shape: tuple[int, int, int]
) -> None:
    pixels = images(*shape)
    got = session(tiny_onnx).run(["coarse", "fine"], {"image": pixels})
    for value, expected in zip(got, torch_heads(tiny_model, pixels), strict=True):
        assert_close(value, expected)


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 32, 64)])
def test_flipped_outputs_are_the_raw_heads_of_the_mirrored_images(
    tiny_model: Any, tiny_onnx_flip: Path, shape: tuple[int, int, int]
) -> None:
    pixels = images(*shape)
    names = ["coarse", "fine", "coarse_flipped", "fine_flipped"]
    got = session(tiny_onnx_flip).run(names, {"image": pixels})
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    expected = torch_heads(tiny_model, pixels) + torch_heads(tiny_model, mirrored)
    for value, wanted in zip(got, expected, strict=True):
        assert_close(value, wanted)


def test_a_fixed_float_graph_takes_normalised_planes_of_its_shape_only(tiny_model: Any, tiny_onnx_fixed: Path) -> None:
    pixels = images(2, 64, 96)
    planes = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    run = session(tiny_onnx_fixed)
    assert [(i.name, i.type, i.shape) for i in run.get_inputs()] == [("image", "tensor(float)", [2, 3, 64, 96])]
    shapes = {output.name: output.shape for output in run.get_outputs()}
    assert shapes == {
        "coarse": [2, 34, 16, 24],
        "fine": [2, 17, 32, 48],
        "coarse_flipped": [2, 34, 16, 24],
        "fine_flipped": [2, 17, 32, 48],
    }
    coarse, fine, *_ = run.run(None, {"image": planes})
    for value, expected in zip((coarse, fine), torch_heads(tiny_model, pixels), strict=True):
        assert_close(value, expected)


def test_the_dynamic_graph_is_clean(tiny_onnx: Path) -> None:
    graph = onnx.load(str(tiny_onnx)).graph
    first = graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["image"])
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Cast"] == 1
    assert not {"Shape", "Gather", "BatchNormalization", "Constant", "Identity"} & kinds.keys()
    constants = {tensor.name for tensor in graph.initializer}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert resizes
    assert all(node.input[2] in constants and len(node.input) == 3 for node in resizes)
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "height", "width", 3]


def test_the_mirrored_copy_joins_the_batch_once(tiny_onnx_flip: Path) -> None:
    graph = onnx.load(str(tiny_onnx_flip)).graph
    batch_joins = [n for n in graph.node if n.op_type == "Concat" and n.attribute[0].i == 0]
    assert len(batch_joins) == 1
    plain = sum(node.op_type == "Conv" for node in graph.node)
    assert plain == 53


def test_metadata_says_what_the_graph_is(tiny_model: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import hashlib

    export_onnx(tiny_checkpoint, tmp_path / "a.onnx", size=64, flip=True)
    props = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "a.onnx")).metadata_props}
    assert props["preset"] == "tiny_coco"
    assert json.loads(props["skeleton"])["joints"][0] == "nose"
    assert props["input"] == "uint8"
    assert json.loads(props["flip"]) is True
    assert json.loads(props["short_side"]) == 64
    assert json.loads(props["mean"]) == [0.485, 0.456, 0.406]
    assert props["checkpoint_sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert props["tool_version"]


def test_a_graph_that_differs_is_refused_and_the_earlier_file_stays(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.export import graph as graph_module

    path = tmp_path / "heads.onnx"
    path.write_bytes(b"earlier")
    trace = graph_module._trace

    def spoiled(*args: Any) -> onnx.ModelProto:
        model = trace(*args)
        bias = next(t for t in model.graph.initializer if t.name == "final_layers.1.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        return model

    monkeypatch.setattr(graph_module, "_trace", spoiled)
    with pytest.raises(GateFailedError, match="fine") as error:
        export_onnx(tiny_model, path, size=64)
    assert error.value.exit_code == 3
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["heads.onnx"]


def test_neither_the_checkpoint_nor_a_folder_is_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(InputError, match="is the checkpoint itself"):
        export_onnx(mine, tmp_path / "." / "mine.safetensors", size=64)
    assert mine.read_bytes() == tiny_checkpoint.read_bytes()
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(mine, tmp_path, size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "multiples of 32"),
        ({"size": "64y64"}, "64y64"),
        ({"size": 64, "dynamic": True}, "both"),
        ({"opset": 9}, "opset"),
        ({"batch": 0}, "batch"),
    ],
)
def test_contradictions_and_odd_options_are_named(
    tiny_model: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(tiny_model, tmp_path / "heads.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_left_as_it_was(tiny_model: Any, tiny_onnx: Path) -> None:
    assert not tiny_model.training
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in tiny_model.parameters())


def test_parity_runs_two_shapes_where_the_graph_is_dynamic() -> None:
    assert parity_shapes(512, None, None) == [(1, 512, 704), (2, 704, 512)]
    assert parity_shapes(500, None, 3) == [(3, 512, 704), (3, 704, 512)]
    assert parity_shapes(512, (64, 96), None) == [(1, 64, 96), (2, 64, 96)]
    assert parity_shapes(512, (64, 96), 4) == [(4, 64, 96)]


def test_samples_come_from_the_folder_or_are_drawn(tmp_path: Path) -> None:
    import cv2

    grey = np.full((40, 60, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    (tmp_path / "notes.txt").write_text("no image")
    batches, origin = sample_batches([(2, 64, 96)], tmp_path)
    assert origin == str(tmp_path)
    assert batches[0].shape == (2, 64, 96, 3)
    assert (batches[0] == 90).all()
    drawn, origin = sample_batches([(2, 64, 96)])
    assert origin == "synthetic people"
    assert drawn[0].std() > 10
    assert (drawn[0][0] != drawn[0][1]).any()
    again, _ = sample_batches([(2, 64, 96)])
    assert (again[0] == drawn[0]).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        sample_batches([(1, 64, 64)], tmp_path / "empty")


def test_a_network_in_training_is_exported_without_being_touched(tiny_model: Any, tmp_path: Path) -> None:
    import copy

    network = copy.deepcopy(tiny_model).half().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = export_onnx(network, tmp_path / "heads.onnx", size=64)
    assert report.parity.outputs["fine"].relative_max < 1e-3
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
