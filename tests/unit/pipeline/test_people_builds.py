"""Graphs that decode inside: built for TensorRT in every precision, refused by name everywhere else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.plugin_ops import DOMAIN, PEOPLE
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.decode_ops import with_decode
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.calibration import calibrate_model
from hhrnet_deploy.quantize.calibration_set import open_calibration
from hhrnet_deploy.quantize.typed import measured_source
from hhrnet_deploy.targets import tensorrt, tensorrt_rtx, trt_builder, trt_target
from hhrnet_deploy.targets.bundle import read_bundle
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.opening import open_model
from hhrnet_deploy.targets.trt_builder import Plan, Request, refuse_unknown_operators
from hhrnet_deploy.targets.trt_callbacks import Log
from hhrnet_deploy.targets.trt_options import TensorRtOptions
from hhrnet_deploy.targets.trt_target import Cards

CONFIG = DecodeConfig(detection_threshold=0.2, max_people=12)


@pytest.fixture(scope="module")
def people_onnx(tiny_onnx_flip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "people.onnx"
    onnx.save(with_decode(onnx.load(str(tiny_onnx_flip)), CONFIG), str(path))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    folder = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(21)
    for number, shape in enumerate(((64, 64), (64, 96))):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), shape))
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """What reaches TensorRT's builder; the rest of the target is as it is, on a card that is not there."""
    graphs: list[onnx.ModelProto] = []

    def build(trt: Any, request: Request) -> Plan:
        graphs.append(onnx.load(str(request.graph.path)))
        return Plan(b"plan", Log())

    target = tensorrt.TensorRt
    monkeypatch.setattr(target, "load", lambda self: SimpleNamespace(__name__="tensorrt", __version__="11.4.0"))
    monkeypatch.setattr(target, "_cards", lambda self, options: Cards((), "sm_86"))
    monkeypatch.setattr(target, "_layers", lambda self, plan: ())
    monkeypatch.setattr(trt_target, "build_plan", build)
    return graphs


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_gets_its_ops_last(
    precision: str, people_onnx: Path, photos: Path, tmp_path: Path, built: list[onnx.ModelProto]
) -> None:
    calibration = {} if precision == "fp32" else {"calibration": str(photos), "ranges": tmp_path / "ranges.npz"}
    build_engine(people_onnx, tmp_path / "e", target="tensorrt", precision=precision, **calibration)
    [model] = built
    ops = [node for node in model.graph.node if node.domain == DOMAIN]
    assert list(model.graph.node)[-len(ops) :] == ops
    assert [node.op_type for node in ops] == ["aggregate_flip", "peaks", "group", "refine"]
    assert [one.name for one in model.graph.output] == list(PEOPLE)
    kinds = types_of(model)
    half = onnx.TensorProto.FLOAT if precision == "fp32" else onnx.TensorProto.FLOAT16
    assert [kinds[name] for name in ops[0].input[:4]] == [half] * 4
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node) == (precision == "int8")
    manifest = read_bundle(tmp_path / "e").manifest
    assert (manifest.outputs, manifest.precision, manifest.flip) == ("people", precision, True)
    assert manifest.decode == CONFIG
    assert manifest.parity is None
    assert "people" in (manifest.parity_missing or "")
    assert manifest.cost is not None
    assert manifest.info("e").decode == CONFIG


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors before the ops."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {one.name: one.type.tensor_type.elem_type for one in inferred.graph.value_info}


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_other_targets_refuse_it_by_name(target: str, people_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"decodes inside the graph with TensorRT plugins; the target {target}"):
        build_engine(people_onnx, tmp_path / "e", target=target, precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_rtx_refuses_it_before_anything_is_done(
    people_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_rtx.TensorRtRtx, "check_ready", lambda self, options: None)
    monkeypatch.setattr(tensorrt_rtx.TensorRtRtx, "load", lambda self: pytest.fail("the library was touched"))
    with pytest.raises(InputError, match="TensorRT-RTX takes no plugins") as error:
        build_engine(people_onnx, tmp_path / "e", target="tensorrt-rtx", precision="int8")
    assert "--decode plugin" in str(error.value)


def test_onnx_runtime_refuses_to_open_it(people_onnx: Path) -> None:
    with pytest.raises(InputError, match="ONNX Runtime cannot run it"):
        open_model(people_onnx)


def test_ranges_are_measured_on_the_heads_and_fit(
    people_onnx: Path, tiny_onnx_flip: Path, photos: Path, tmp_path: Path, built: list[onnx.ModelProto]
) -> None:
    ranges = tmp_path / "ranges.npz"
    calibration = open_calibration(str(photos))
    with pytest.raises(InputError, match="decodes inside; figures are measured on its heads"):
        measured_source(read_graph(people_onnx), calibration=calibration, ranges=ranges)
    with pytest.raises(InputError, match="decodes inside; figures are measured on its heads"):
        calibrate_model(people_onnx, str(photos), output=ranges)
    measured_source(read_graph(tiny_onnx_flip), calibration=calibration, ranges=ranges)
    build_engine(people_onnx, tmp_path / "e", target="tensorrt", precision="int8", ranges=ranges)
    assert any(node.op_type == "QuantizeLinear" for node in built[0].graph.node)


def test_the_ops_are_registered_before_the_graph_is_parsed(people_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(trt_builder, "register_plugins", lambda trt: calls.append(f"register with {trt.__name__}"))

    class Enough(Exception):  # noqa: N818
        pass

    class Parser:
        def __init__(self, network: Any, logger: Any) -> None:
            calls.append("parser")

        def supports_operator(self, name: str) -> bool:
            assert name not in ("aggregate_flip", "group")
            return True

        def parse_from_file(self, path: str) -> bool:
            calls.append("parse")
            raise Enough

    trt: Any = SimpleNamespace(
        __name__="tensorrt",
        __version__="11",
        ILogger=type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)}),
        IProgressMonitor=object,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        Builder=lambda logger: SimpleNamespace(create_network=lambda flags: None),
        OnnxParser=Parser,
    )
    monkeypatch.setattr(trt_builder, "make_logger", lambda trt, log: None)
    with pytest.raises(Enough):
        trt_builder.build_plan(trt, Request(read_graph(people_onnx), (), TensorRtOptions(), (), lambda *_: None))
    assert calls == ["register with tensorrt", "parser", "parse"]


def test_ops_in_a_graph_of_heads_are_unknown(people_onnx: Path) -> None:
    parser: Any = SimpleNamespace(supports_operator=lambda name: True)
    trt: Any = SimpleNamespace(__name__="tensorrt", __version__="11")
    refuse_unknown_operators(trt, parser, people_onnx, decodes=True)
    with pytest.raises(InputError, match=r"hhrnet\.aggregate_flip, hhrnet\.group, hhrnet\.peaks, hhrnet\.refine"):
        refuse_unknown_operators(trt, parser, people_onnx)
