"""ONNX Runtime on the CPU: runs the exported graph as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hhrnet_deploy.errors import BundleError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.lazy import require
from hhrnet_deploy.targets.graph import INPUT, Graph
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.runner import Images, Runner, RunnerInfo
from hhrnet_deploy.targets.target import BuildSettings, Built, Layer, RunOptions, Target

MODEL = "model.onnx"


def _onnxruntime() -> Any:
    return require("onnxruntime", purpose="the target onnxruntime")


class OnnxRuntime(Target):
    """The ONNX file itself, run on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    needed_files: ClassVar[tuple[str, ...]] = (MODEL,)

    def version(self) -> str:
        """The release."""
        return str(_onnxruntime().__version__)

    def device(self) -> str:
        """Always the CPU."""
        return "CPU"

    def build(self, graph: Graph, folder: Path, precision: str, settings: BuildSettings) -> Built:
        """Copy the graph; the session optimises it when it is opened."""
        shutil.copyfile(graph.path, folder / MODEL)
        return Built((MODEL,), {}, _layers(folder / MODEL))

    def runner(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Runner:
        """A runner of the graph in ``folder``."""
        return OnnxRuntimeRunner(folder / MODEL, info, options)


class OnnxRuntimeRunner(Runner):
    """A session of an ONNX file on the CPU."""

    def __init__(self, model: Path, info: RunnerInfo, options: RunOptions) -> None:
        super().__init__(info)
        self._path = model
        self._options = options
        self._session: Any = None
        self._outputs: list[str] = []

    def _open(self) -> None:
        ort = _onnxruntime()
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        # Threads that spin while they wait would take the processor from decoding and reading.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._options.threads is not None:
            settings.intra_op_num_threads = self._options.threads
        if self.info.fixed_size is None or not self.info.fixed_batch:
            # Plans of buffers are kept per input shape without a limit.
            settings.enable_mem_pattern = False
        try:
            self._session = ort.InferenceSession(str(self._path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base with a name.
            raise BundleError(f"ONNX Runtime cannot load {self._path}: {error}.") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def _close(self) -> None:
        self._session = None

    def _run(self, images: Images) -> Heads:
        pixels = images if self.info.input == "uint8" else normalize(images)
        values = self._session.run(self._outputs, {INPUT: pixels})
        return Heads(*(np.asarray(value) for value in values))


def _layers(path: Path) -> tuple[Layer, ...]:
    """What ONNX Runtime makes of the graph when it opens it, with the type each node computes in."""
    import onnx

    ort = _onnxruntime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    # Without the layouts of this processor, whose nodes no longer say what they were.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="hhrnet-layers-") as scratch:
        settings.optimized_model_filepath = str(Path(scratch) / MODEL)
        ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        model = onnx.shape_inference.infer_shapes(onnx.load(settings.optimized_model_filepath))
    graph = model.graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    nodes = (node for node in graph.node if node.op_type != "Constant")
    return tuple(
        Layer(name=node.name, type=node.op_type, precision=_precision(node.op_type, values.get(node.output[0], 0)))
        for node in nodes
    )


def _precision(kind: str, element: int) -> str:
    return "int8" if kind.startswith("QLinear") else _type_name(element)


def _type_name(element: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(element)).lower()


TARGET = OnnxRuntime()
