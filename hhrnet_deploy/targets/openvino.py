"""OpenVINO on the CPU: the embedded default.

The precision is always stated (``INFERENCE_PRECISION_HINT``): left alone, OpenVINO runs float32 models in bf16 on
processors that have it (docs.openvino.ai, "Precision control").
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hhrnet_deploy.errors import BundleError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.lazy import require
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.runner import Images, Runner, RunnerInfo
from hhrnet_deploy.targets.target import BuildSettings, Built, Layer, RunOptions, Target

MODEL, WEIGHTS = "model.xml", "model.bin"
HINT = "INFERENCE_PRECISION_HINT"
_DEVICE = "CPU"
# What the graph says -> the type of the arithmetic that is not quantised.
_ARITHMETIC = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}
# OpenVINO's names for the value of the hint, as it is read back.
_ELEMENT_TYPES = {"f32": "float32", "bf16": "bfloat16"}


def _openvino() -> Any:
    return require("openvino", purpose="the target openvino")


class OpenVino(Target):
    """IR files, run on the CPU."""

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = tuple(_ARITHMETIC)
    needed_files: ClassVar[tuple[str, ...]] = (MODEL, WEIGHTS)

    def version(self) -> str:
        """The release, without the build number."""
        return str(_openvino().__version__).split("-")[0]

    def device(self) -> str:
        """Always the CPU; IR files run on any."""
        return _DEVICE

    def build(self, graph: Graph, folder: Path, precision: str, settings: BuildSettings) -> Built:
        """Convert to IR, weights as they are (no compression to half precision)."""
        ov = _openvino()
        core = ov.Core()
        model = core.read_model(str(graph.path))
        ov.save_model(model, str(folder / MODEL), compress_to_fp16=False)
        hints = {HINT: _ARITHMETIC[precision]}
        # Read back what was written: the layers listed are those of the file that will be opened.
        compiled = core.compile_model(str(folder / MODEL), _DEVICE, hints)
        return Built((MODEL, WEIGHTS), hints, _layers(compiled))

    def runner(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Runner:
        """A runner of the IR in ``folder``."""
        return OpenVinoRunner(folder / MODEL, info, hints, options)


class OpenVinoRunner(Runner):
    """Runs an IR (or an ONNX file) with the hints it was built with.

    A dynamic engine is compiled once for all sizes. With ``options.shape_cache`` the sizes used last get a compiled
    model of their own, least recently used out first.
    """

    def __init__(self, model: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> None:
        super().__init__(info)
        self._path = model
        self._hints = hints
        self._options = options
        self._core: Any = None
        self._model: Any = None
        self._dynamic: Any = None
        self._by_shape: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def _open(self) -> None:
        self._core = _openvino().Core()
        self._model = self._core.read_model(str(self._path))
        self._dynamic = self._compiled(self._model)

    def _close(self) -> None:
        self._by_shape.clear()
        self._dynamic = self._model = self._core = None

    def _run(self, images: Images) -> Heads:
        pixels = images if self.info.input == "uint8" else normalize(images)
        request = self._request(pixels.shape)
        # shared_memory: the input is read in place; outputs are the request's own buffers, copied before the next run.
        results = request.infer([pixels], share_inputs=True, share_outputs=True)
        return Heads(*(np.array(results[number], np.float32) for number in range(len(results))))

    def _request(self, shape: tuple[int, ...]) -> Any:
        """The inference request for that input shape."""
        if not self._options.shape_cache or not self._model.is_dynamic():
            return self._dynamic
        if shape not in self._by_shape:
            while len(self._by_shape) >= self._options.shape_cache:
                self._by_shape.popitem(last=False)
            model = self._model.clone()
            model.reshape(list(shape))
            self._by_shape[shape] = self._compiled(model)
        self._by_shape.move_to_end(shape)
        return self._by_shape[shape]

    def _compiled(self, model: Any) -> Any:
        settings = {**self._hints, "PERFORMANCE_HINT": "LATENCY"}
        if self._options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(self._options.threads)
        if self._options.cache_dir is not None:
            settings["CACHE_DIR"] = str(self._options.cache_dir)
        compiled = self._core.compile_model(model, _DEVICE, settings)
        self._check_precision(compiled)
        return compiled.create_infer_request()

    def _check_precision(self, compiled: Any) -> None:
        wanted = self._hints.get(HINT, "f32")
        got = compiled.get_property(HINT).to_string()
        if got != wanted:
            raise BundleError(
                f"{self.info.name} asks for {wanted} arithmetic, OpenVINO runs it in {got} on this processor.",
                hint="Build an engine with --precision fp32 for it.",
            )


def _layers(compiled: Any) -> tuple[Layer, ...]:
    """What runs, from the runtime model, constants left out."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].astype(str))
        if kind != "Const":
            name = str(node.get_friendly_name())
            nodes = tuple(filter(None, str(info["originalLayersNames"].astype(str)).split(",")))
            precision = str(info["runtimePrecision"].astype(str))
            layers.append(Layer(name=name, type=kind, precision=precision, nodes=nodes))
    return tuple(layers)


TARGET = OpenVino()
