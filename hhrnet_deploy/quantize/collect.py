"""Calibration: the network runs over the set, and every tensor's magnitudes are counted on the way.

First it runs over the beginning of the set as it is, to see how large each channel becomes; then, equalised, over all
of it. At the beginning of that the patches that convolutions read are looked at, too.

The graph itself reduces each tensor to its extremes, to a coarse grid of its pixels and to a sample of its patches;
only those leave ONNX Runtime, so memory does not depend on the number of images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.calibration_set import CalibrationSet
from hhrnet_deploy.quantize.equalize import equalized
from hhrnet_deploy.quantize.patches import Moments, Patches, patches_of, sampling
from hhrnet_deploy.quantize.statistics import Header, Statistics, TensorStatistics, cached_path
from hhrnet_deploy.quantize.topology import Topology, ordered, strides
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.runner import MULTIPLE

# Sampled pixels lie this far apart on the network input; at the lowest resolution that is every pixel.
PITCH = 32
# Patches are cut out at so many places along the short side.
_PATCHES_PER_SIDE = 16
# Wider patches are looked at down to this part of the input's size only: below, how weights are rounded hardly reaches
# the heads (docs/int8.md).
_FINE, _MOST_COARSE_VALUES = 8, 640
# A longer network input is cut into pieces of at most so many pixels; memory grows with them.
_MOST_PIXELS = 768 * 512
# Channels' maxima only balance channels against each other, and an image has hundreds of patches: the first images of
# the set suffice for both.
PREPARING = 16
_SAVE_SECONDS = 60.0
# From this ONNX version on ReduceMin and ReduceMax take their axes as an input.
_AXES_AS_INPUT = 18
_OBSERVED = ("Conv", "ConvTranspose", "Relu", "Add", "Div")
Done = Callable[[int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Finished figures, the file they are kept in, and the equalised network that they are of."""

    topology: Topology
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
        progress: called with (passes done, remark); `passes` in all.
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
    statistics = _begun(header, file, in_cache=path is None)
    keep = partial(statistics.save if path is not None else statistics.cache, file)
    first = statistics.header.done
    tell = progress or (lambda *_: None)
    preparing = min(PREPARING, len(calibration))
    if statistics.header.prepared < preparing:
        images = calibration.warped(short_side, start=statistics.header.prepared)
        missing = islice(images, preparing - statistics.header.prepared)
        _run(_Observer(topology, {}, float_input, threads).prepare, statistics, missing, keep, tell)
    equal = equalized(topology, statistics.maxima)
    for cuts, last in ((_cuts(equal, short_side), preparing), ({}, len(calibration))):
        if statistics.header.done < last:
            images = calibration.warped(short_side, start=statistics.header.done)
            missing = islice(images, last - statistics.header.done)
            _run(_Observer(equal, cuts, float_input, threads).observe, statistics, missing, keep, tell)
    return Calibration(equal, statistics, file, first)


def passes(calibration: CalibrationSet) -> int:
    """How many times an image goes through the network."""
    return len(calibration) + min(PREPARING, len(calibration))


def _begun(header: Header, file: Path, *, in_cache: bool) -> Statistics:
    if not file.exists():
        return Statistics(header)
    try:
        statistics = Statistics.load(file)
        statistics.check(header, file)
    except InputError:
        # Nobody gave that file: one of another version, or damaged, is measured anew.
        if in_cache:
            return Statistics(header)
        raise
    return statistics


def _run(
    observe: Callable[[npt.NDArray[np.uint8], Statistics], str],
    statistics: Statistics,
    images: Iterable[npt.NDArray[np.uint8]],
    keep: Callable[[], None],
    progress: Done,
) -> None:
    saved = time.monotonic()
    for pixels in images:
        for piece in _pieces(pixels):
            counter = observe(piece, statistics)
        header = statistics.header
        statistics.header = header.model_copy(update={counter: getattr(header, counter) + 1})
        progress(statistics.header.prepared + statistics.header.done, f"{pixels.shape[2]}x{pixels.shape[1]}")
        if time.monotonic() - saved > _SAVE_SECONDS:
            keep()
            saved = time.monotonic()
    keep()


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

    def __init__(self, topology: Topology, cuts: dict[Patches, int], float_input: bool, threads: int) -> None:
        import onnxruntime

        self._float_input, self._patches = float_input, tuple(cuts)
        self._keys, model = _observing(topology, cuts)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Every image has another shape: no pattern fits the next. The arena keeps what the largest piece took; without
        # it half of the time goes into the kernel's clearing of fresh pages.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def prepare(self, pixels: npt.NDArray[np.uint8], statistics: Statistics) -> str:
        """Add one image (1, H, W, 3) to the channels' maxima; the name of the counter it belongs to."""
        for key, low, high, _ in self._figures(self._outputs(pixels)):
            largest = np.maximum(-low, high).max(axis=0).astype(np.float32)
            statistics.maxima[key] = np.maximum(statistics.maxima.get(key, largest), largest)
        return "prepared"

    def observe(self, pixels: npt.NDArray[np.uint8], statistics: Statistics) -> str:
        """Add one image (1, H, W, 3) to the figures; the name of the counter it belongs to."""
        values = self._outputs(pixels)
        for key, low, high, sample in self._figures(values):
            item = statistics.tensors.setdefault(key, TensorStatistics())
            item.low, item.high = min(item.low, float(low.min())), max(item.high, float(high.max()))
            item.histogram.add(sample)
        for patches, cut in zip(self._patches, values[3 * len(self._keys) :], strict=True):
            if patches.key not in statistics.moments:
                statistics.moments[patches.key] = Moments(np.zeros([patches.values] * 2, np.float32))
            statistics.moments[patches.key].add(cut)
        return "done"

    def _outputs(self, pixels: npt.NDArray[np.uint8]) -> list[Any]:
        name = self._session.get_inputs()[0].name
        feed = normalize(pixels) if self._float_input else pixels
        return list(self._session.run(None, {name: feed}))

    def _figures(self, values: list[Any]) -> Iterator[tuple[str, Any, Any, Any]]:
        """Key, lowest and highest value of each image's channels (N, C), and the sample, of every tensor."""
        for number, key in enumerate(self._keys):
            low, high, sample = values[3 * number : 3 * number + 3]
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise InputError(
                    f"The activation {key} is NaN or infinite on a calibration image.", hint="Check the checkpoint."
                )
            yield key, low, high, sample


def _cuts(topology: Topology, short_side: int) -> dict[Patches, int]:
    """Each kind of patches that quantised convolutions read, and how many output pixels apart they are sampled."""
    factors = strides(topology)
    rounded = [node for node in topology.convolutions() if node.name not in topology.heads]
    read = [patches for node in rounded if (patches := patches_of(topology, node)) is not None]
    found = [each for each in read if each.values <= _MOST_COARSE_VALUES or factors[each.tensor] <= _FINE]
    pitch = short_side / _PATCHES_PER_SIDE
    return {patches: _step(pitch, factors[patches.tensor] * patches.stride) for patches in found}


def _observing(topology: Topology, cuts: dict[Patches, int]) -> tuple[list[str], onnx.ModelProto]:
    """The network at any shape, without mirrored images, with three outputs per observed tensor and one per cut."""
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
    watching: dict[str, list[onnx.NodeProto]] = {}
    for number, tensor in enumerate(tensors):
        made, outputs, constants = _summaries(f"observe{number}", tensor, factors[tensor], _opset(model))
        watching.setdefault(tensor, []).extend(made)
        graph.initializer.extend(constants)
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    for number, (patches, step) in enumerate(cuts.items()):
        made, output, constants = sampling(f"cut{number}", patches, step)
        watching.setdefault(patches.tensor, []).extend(made)
        graph.initializer.extend(constants)
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    # Who watches a tensor comes right after who makes it: then tensors can go earlier, a third of the memory (w32_512).
    nodes = [made for value in graph.input for made in watching.pop(value.name, [])]
    for node in _straight(topology, list(graph.node)):
        nodes += [node, *(made for tensor in node.output for made in watching.pop(tensor, []))]
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


def _opset(model: onnx.ModelProto) -> int:
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _step(pitch: float, stride: float) -> int:
    """How many pixels of a map of that stride apart samples lie that are ``pitch`` pixels of the input apart."""
    return max(1, round(pitch / stride))


def _summaries(
    prefix: str, tensor: str, stride: float, opset: int
) -> tuple[list[onnx.NodeProto], list[str], list[onnx.TensorProto]]:
    """Nodes for the extremes of each channel and for every ``step``-th pixel; their outputs and constants."""
    step = _step(PITCH, stride)
    outputs = [f"{prefix}/low", f"{prefix}/high", f"{prefix}/sample"]
    numbers = {"start": [step // 2] * 2, "end": [np.iinfo(np.int64).max] * 2, "axes": [2, 3], "step": [step] * 2}
    grid = [tensor, *(f"{prefix}/{name}" for name in numbers)]
    numbers["others"] = [2, 3]
    constants = [numpy_helper.from_array(np.array(value, np.int64), f"{prefix}/{k}") for k, value in numbers.items()]
    nodes = [helper.make_node("Slice", grid, [outputs[2]], name=outputs[2])]
    for kind, output in (("ReduceMin", outputs[0]), ("ReduceMax", outputs[1])):
        if opset >= _AXES_AS_INPUT:
            nodes.append(helper.make_node(kind, [tensor, f"{prefix}/others"], [output], name=output, keepdims=0))
        else:
            nodes.append(helper.make_node(kind, [tensor], [output], name=output, keepdims=0, axes=numbers["others"]))
    return nodes, outputs, constants


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    kept: list[Any] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
