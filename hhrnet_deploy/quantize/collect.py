"""Calibration: the network runs over the set once, and every tensor's magnitudes are counted on the way.

The graph itself reduces each tensor to its extremes and to a coarse grid of its pixels; only those leave ONNX Runtime,
so memory depends neither on the number of images nor on how many tensors are watched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.calibration_set import CalibrationSet
from hhrnet_deploy.quantize.statistics import Header, Statistics, TensorStatistics, cached_path
from hhrnet_deploy.quantize.topology import Topology, ordered, strides
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.runner import MULTIPLE

# Sampled pixels lie this far apart on the network input; at the lowest resolution that is every pixel.
PITCH = 32
# A longer network input is cut into pieces of at most so many pixels; memory grows with them (w32: 3 GB at this size).
_MOST_PIXELS = 1280 * 512
_SAVE_SECONDS = 20.0
_OBSERVED = ("Conv", "ConvTranspose", "Relu", "Add", "Div")
Done = Callable[[int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Finished figures and the file they are kept in."""

    statistics: Statistics
    path: Path
    resumed_from: int


def calibrate(
    topology: Topology,
    calibration: CalibrationSet,
    short_side: int,
    *,
    float_input: bool,
    path: Path | None = None,
    progress: Done | None = None,
    threads: int = 0,
) -> Calibration:
    """Measure every tensor over a set; goes on where a killed run stopped, and returns at once when all is there.

    Args:
        topology: of the float32 graph, any export of the network.
        calibration: the images.
        short_side: S of the warp in pixels.
        float_input: the graph takes normalised (N, 3, H, W) instead of pixels.
        path: the file of the figures; default a cache file named after network and set.
        progress: called with (images done, remark).
        threads: for ONNX Runtime; 0 takes all cores.

    Raises:
        InputError: ``path`` holds figures of something else, or an image of the set cannot be read.
        HHRNetError: an activation is NaN or infinite.
    """
    header = Header(
        network=topology.digest(),
        calibration=calibration.digest,
        set_name=calibration.name,
        short_side=short_side,
        images=len(calibration),
    )
    file = path or cached_path(header)
    statistics = _begun(header, file)
    first = statistics.header.done
    if not statistics.header.complete:
        observer = _Observer(topology, float_input, threads)
        _run(observer, statistics, calibration.warped(short_side, start=first), file, progress or (lambda *_: None))
    return Calibration(statistics, file, first)


def _begun(header: Header, file: Path) -> Statistics:
    if not file.exists():
        return Statistics(header, {})
    statistics = Statistics.load(file)
    statistics.check(header, file)
    return statistics


def _run(
    observer: _Observer, statistics: Statistics, images: Iterable[npt.NDArray[np.uint8]], file: Path, progress: Done
) -> None:
    saved = time.monotonic()
    for pixels in images:
        for piece in _pieces(pixels):
            observer.observe(piece, statistics.tensors)
        done = statistics.header.done + 1
        statistics.header = statistics.header.model_copy(update={"done": done})
        progress(done, f"{pixels.shape[2]}x{pixels.shape[1]}")
        if statistics.header.complete or time.monotonic() - saved > _SAVE_SECONDS:
            statistics.save(file)
            saved = time.monotonic()


def _pieces(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """The image, or equal parts of its long side; a convolutional network sees the same in them but for the seams."""
    height, width = pixels.shape[1:3]
    axis = 1 if height > width else 2
    count = -(-height * width // _MOST_PIXELS)
    length = -(-pixels.shape[axis] // (count * MULTIPLE)) * MULTIPLE
    starts = range(0, pixels.shape[axis], length)
    return [np.ascontiguousarray(pixels.take(range(at, min(at + length, pixels.shape[axis])), axis)) for at in starts]


class _Observer:
    """A session of the network whose outputs are the summaries of its tensors."""

    def __init__(self, topology: Topology, float_input: bool, threads: int) -> None:
        import onnxruntime

        self._float_input = float_input
        self._keys, model = _observing(topology)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Every image has another shape; the arena and its patterns would keep the largest of each.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def observe(self, pixels: npt.NDArray[np.uint8], tensors: dict[str, TensorStatistics]) -> None:
        """Add one image (1, H, W, 3) to the figures."""
        name = self._session.get_inputs()[0].name
        feed = normalize(pixels) if self._float_input else pixels
        values = self._session.run(None, {name: feed})
        for number, key in enumerate(self._keys):
            low, high, sample = values[3 * number : 3 * number + 3]
            if not (np.isfinite(low) and np.isfinite(high)):
                raise InputError(
                    f"The activation {key} is NaN or infinite on a calibration image.", hint="Check the checkpoint."
                )
            item = tensors.setdefault(key, TensorStatistics())
            item.low, item.high = min(item.low, float(low)), max(item.high, float(high))
            item.histogram.add(sample)


def _observing(topology: Topology) -> tuple[list[str], onnx.ModelProto]:
    """The network at any shape, without mirrored images, with three outputs per observed tensor."""
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    graph = model.graph
    for values in (graph.output, graph.value_info):
        del values[:]
    _free_shape(graph.input[0])
    factors = strides(topology)
    tensors = [
        node.output[0] for node in topology.nodes.values() if node.op_type in _OBSERVED and node.output[0] in factors
    ]
    if topology.entry not in tensors:
        tensors.insert(0, topology.entry)
    nodes = _straight(topology, list(graph.node))
    for number, tensor in enumerate(tensors):
        made, outputs, constants = _summaries(f"observe{number}", tensor, factors[tensor])
        nodes.extend(made)
        graph.initializer.extend(constants)
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    kept = _needed(nodes, {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(ordered(model, kept))
    return [topology.key(tensor) for tensor in tensors], model


def _free_shape(value: onnx.ValueInfoProto) -> None:
    for number, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_value != 3:
            dim.dim_param = f"d{number}"


def _straight(topology: Topology, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Drop the mirrored copy of the batch: the concatenation before the network becomes its first input."""
    joined = topology.made_by(topology.entry)
    if joined is None or joined.op_type != "Concat":
        return nodes
    copy = helper.make_node("Identity", [joined.input[0]], [topology.entry], name=joined.name)
    return [copy if node.name == joined.name else node for node in nodes]


def _summaries(
    prefix: str, tensor: str, stride: float
) -> tuple[list[onnx.NodeProto], list[str], list[onnx.TensorProto]]:
    step = max(1, round(PITCH / stride))
    outputs = [f"{prefix}/low", f"{prefix}/high", f"{prefix}/sample"]
    numbers = {"start": [step // 2] * 2, "end": [np.iinfo(np.int64).max] * 2, "axes": [2, 3], "step": [step] * 2}
    constants = [numpy_helper.from_array(np.array(value, np.int64), f"{prefix}/{k}") for k, value in numbers.items()]
    grid = [tensor, *(constant.name for constant in constants)]
    nodes = [
        helper.make_node("ReduceMin", [tensor], [outputs[0]], name=outputs[0], keepdims=0),
        helper.make_node("ReduceMax", [tensor], [outputs[1]], name=outputs[1], keepdims=0),
        helper.make_node("Slice", grid, [outputs[2]], name=outputs[2]),
    ]
    return nodes, outputs, constants


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    kept: list[Any] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
