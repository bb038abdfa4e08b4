"""TensorRT-RTX builds engines without a card: the real library, on the tiny network."""

from __future__ import annotations

import os
import signal
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.errors import BundleError, HHRNetError, InputError
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.targets import cuda_ready, tensorrt_rtx, trt_builder, trt_target
from hhrnet_deploy.targets.bundle import Bundle, read_bundle, read_layers
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.opening import open_engine
from hhrnet_deploy.targets.target import BuildSettings, Layer
from hhrnet_deploy.targets.trt_options import TensorRtOptions

# The library is large: one process loads it and builds all of them.
pytestmark = pytest.mark.xdist_group("tensorrt-rtx")

CARDS = {"compute_capabilities": ("8.9",)}


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tensorrt_rtx, trt_target, cuda_ready):
        monkeypatch.setattr(module, "compute_capability", lambda: None)


def build(onnx: Path, path: Path, **options: Any) -> Bundle:
    build_engine(onnx, path, target="tensorrt-rtx", tensorrt={**CARDS, **options})
    return read_bundle(path)


def placed(layers: list[Layer]) -> set[str]:
    return {name for layer in layers for name in layer.work}


def test_a_dynamic_graph_becomes_an_engine(tiny_onnx: Path, tmp_path: Path) -> None:
    bundle = build(tiny_onnx, tmp_path / "e", max_batch=2)
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.device) == ("tensorrt-rtx", "fp32", "sm_89")
    assert set(manifest.files) == {"model.plan", "layers.json"}
    assert manifest.shapes.max_batch == 2
    assert [profile.max for profile in manifest.shapes.profiles] == [(2, 64, 256), (2, 256, 64)]
    assert manifest.parity is None
    assert "no NVIDIA GPU" in (manifest.parity_missing or "")
    assert "--max-batch 2 --compute-capabilities 8.9" in manifest.rebuild
    layers = read_layers(bundle)
    assert len(placed(layers)) == 54, "two profiles list every convolution once"
    assert manifest.cost is not None
    assert sum(sum(layer.work.values()) for layer in layers) == manifest.cost.multiply_adds
    assert {layer.precision for layer in layers if layer.type == "correlation"} == {"fp32"}


def test_flip_fixed_shape_and_float_input_build(tiny_onnx_fixed: Path, tiny_onnx_flip: Path, tmp_path: Path) -> None:
    fixed = build(tiny_onnx_fixed, tmp_path / "fixed").manifest
    assert (fixed.shapes.batch, fixed.shapes.height, fixed.shapes.profiles, fixed.flip) == (2, 64, (), True)
    flip = build(tiny_onnx_flip, tmp_path / "flip", shapes=("64x96",), max_batch=1, optimization_level=0).manifest
    assert [profile.opt for profile in flip.shapes.profiles] == [(1, 64, 96)]


def test_several_cards_are_one_engine(tiny_onnx_fixed: Path, tmp_path: Path) -> None:
    bundle = build(tiny_onnx_fixed, tmp_path / "e", compute_capabilities=("8.6", "12.0"))
    assert bundle.manifest.device == "sm_86 sm_120"
    assert len(placed(read_layers(bundle))) == 54


def test_without_a_card_it_is_for_all_that_have_int8() -> None:
    cards = tensorrt_rtx.TARGET._cards(TensorRtOptions())
    assert cards.names[0] == "SM80"
    assert "sm_75" not in cards.device.split()


def test_the_card_that_is_there_is_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "compute_capability", lambda: "sm_89")
    assert tensorrt_rtx.TARGET._cards(TensorRtOptions()) == trt_target.Cards(("SM89",), "sm_89")
    monkeypatch.setattr(tensorrt_rtx, "compute_capability", lambda: "sm_90")
    assert tensorrt_rtx.TARGET._cards(TensorRtOptions()) == trt_target.Cards(("CURRENT",), "sm_90")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timing_cache": "a.bin"}, "no --timing-cache"),
        ({"version_compatible": True}, "no --version-compatible"),
        ({"hardware_compatible": "ampere+"}, "no --hardware-compatible"),
        ({"compute_capabilities": ("9.0",)}, r"capability 9\.0"),
        ({"compute_capabilities": ("8.6", "8.9"), "refit": True}, "one card at a time"),
        ({"strip": True}, "no NVIDIA GPU"),
    ],
)
def test_what_rtx_cannot_do_is_refused_first(
    tiny_onnx: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny_onnx, tmp_path / "e", **options)
    assert not (tmp_path / "e").exists()


def with_node(source: Path, path: Path, kind: str, domain: str) -> Path:
    """The graph with one more node before the output ``fine``."""
    import onnx

    model = onnx.load(str(source))
    nodes = [node for node in model.graph.node if "fine" in node.output]
    nodes[0].output[list(nodes[0].output).index("fine")] = "before"
    model.graph.node.append(onnx.helper.make_node(kind, ["before"], ["fine"], domain=domain))
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(("kind", "domain", "name"), [("peaks", "hhrnet", "hhrnet.peaks"), ("Frobnicate", "", "Frobn")])
def test_operators_that_need_a_plugin_are_named_before_the_parser_sees_them(
    tiny_onnx: Path, tmp_path: Path, kind: str, domain: str, name: str
) -> None:
    graph = read_graph(with_node(tiny_onnx, tmp_path / "plugin.onnx", kind, domain))
    settings = BuildSettings(tensorrt=TensorRtOptions(**CARDS))
    with pytest.raises(InputError, match=name) as error:
        tensorrt_rtx.TARGET.build(graph, tmp_path, "fp32", settings)
    assert "no plugins" in str(error.value)


def test_what_the_parser_refuses_is_readable(tiny_onnx: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(tiny_onnx))
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == convolution.input[1])
    weights.dims[1] = 1  # no longer the channels of the input, nor the bytes that are there
    path = tmp_path / "broken.onnx"
    onnx.save(model, str(path))
    with pytest.raises(HHRNetError, match="tensorrt_rtx"):
        tensorrt_rtx.TARGET.build(read_graph(path), tmp_path, "fp32", BuildSettings(tensorrt=TensorRtOptions(**CARDS)))


def test_the_precision_is_the_graphs(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="typed fp32, fp16 was asked for"):
        tensorrt_rtx.TARGET.build(read_graph(tiny_onnx), tmp_path, "fp16", BuildSettings())


def test_graphs_that_decode_are_refused_with_the_alternative(tiny_onnx: Path) -> None:
    from dataclasses import replace

    graph = read_graph(tiny_onnx)
    people = replace(graph, metadata=graph.metadata.model_copy(update={"outputs": "people"}))
    with pytest.raises(InputError, match=r"--target tensorrt, .* people are found after the engine"):
        tensorrt_rtx.TARGET.check_graph(people)


def test_the_builder_never_hands_the_ops_to_the_parser(tiny_onnx: Path, tmp_path: Path) -> None:
    """TensorRT-RTX's parser would end this process."""
    import onnx

    from hhrnet_deploy.config import DecodeConfig
    from hhrnet_deploy.export.decode_ops import with_decode

    onnx.save(with_decode(onnx.load(str(tiny_onnx)), DecodeConfig()), str(tmp_path / "p.onnx"))
    settings = BuildSettings(tensorrt=TensorRtOptions(**CARDS))
    with pytest.raises(HHRNetError, match="takes no plugins like aggregate"):
        tensorrt_rtx.TARGET.build(read_graph(tmp_path / "p.onnx"), tmp_path, "fp32", settings)


def test_progress_grows_from_nothing_to_all(tiny_onnx_fixed: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    settings = BuildSettings(TensorRtOptions(**CARDS), lambda share, _: shares.append(share))
    tensorrt_rtx.TARGET.build(read_graph(tiny_onnx_fixed), tmp_path, "fp32", settings)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len(set(shares)) > 20


def test_ctrl_c_stops_the_build_and_leaves_the_earlier_bundle(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e"
    build_engine(tiny_onnx, path, target="onnxruntime")
    before = (path / "manifest.json").read_text()
    stopped: list[bool] = []
    original = trt_builder._build

    def watched(trt: Any, request: Any, progress: Any) -> Any:
        try:
            return original(trt, request, progress)
        except KeyboardInterrupt:
            stopped.append(True)
            raise

    monkeypatch.setattr(trt_builder, "_build", watched)
    pressed = threading.Event()

    class Bar:
        def __init__(self, title: str, total: int | None) -> None:
            pass

        def __enter__(self) -> Any:
            return self.advance

        def __exit__(self, *_: object) -> None:
            pass

        def advance(self, done: int, note: str = "") -> None:
            if done >= 10 and not pressed.is_set():
                pressed.set()
                os.kill(os.getpid(), signal.SIGINT)
                # What a real build takes minutes for: the main thread gets the time to see the key.
                threading.Event().wait(0.5)

    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny_onnx, path, target="tensorrt-rtx", tensorrt=CARDS, bar=Bar)
    assert stopped, "TensorRT went on to the end"
    assert (path / "manifest.json").read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["e"]


def test_a_failed_build_leaves_nothing_for_the_garbage_collector(tiny_onnx: Path, tmp_path: Path) -> None:
    """What it would free later, inside the next build's callbacks, waits for TensorRT's lock for ever."""
    import gc

    graph = read_graph(with_node(tiny_onnx, tmp_path / "plugin.onnx", "peaks", "hhrnet"))
    settings = BuildSettings(tensorrt=TensorRtOptions(compute_capabilities=("8.9",)))
    with pytest.raises(InputError) as error:
        tensorrt_rtx.TARGET.build(graph, tmp_path, "fp32", settings)
    frames = [item for item in gc.get_objects() if type(item) is types.FrameType]
    values = [value for frame in frames for value in frame.f_locals.values()]
    held = {type(value).__name__ for value in values if type(value).__module__.startswith("tensorrt_rtx")}
    assert (held & {"Builder", "OnnxParser", "INetworkDefinition", "IBuilderConfig"}, error.type) == (set(), InputError)


def test_an_int8_engine_without_int8_layers_is_refused() -> None:
    layers = (Layer(name="a", type="correlation", precision="fp16"),)
    cards = trt_target.Cards((), "sm_75")
    with pytest.raises(HHRNetError, match="in int8 for sm_75"):
        tensorrt_rtx.TARGET._check_computes_int8("int8", layers, cards)
    tensorrt_rtx.TARGET._check_computes_int8("fp16", layers, cards)


def test_opening_says_what_is_missing(tiny_onnx_fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tiny_onnx_fixed, tmp_path / "e")
    with pytest.raises(BundleError, match=r"device sm_89 \(here: no GPU\)"):
        open_engine(tmp_path / "e")
    monkeypatch.setattr(trt_target, "compute_capability", lambda: "sm_89")
    runner = open_engine(tmp_path / "e")
    with pytest.raises(HHRNetError, match="cannot run here: no NVIDIA GPU is visible"), runner:
        runner.heads(np.zeros((2, 64, 96, 3), np.uint8))
