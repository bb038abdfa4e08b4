"""What each convolution costs the heads when it alone computes in int8.

One graph holds every layer both ways and a switch between them as an input, so one session serves all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.quantize.cost import multiply_adds
from hhrnet_deploy.quantize.family import Family
from hhrnet_deploy.quantize.fold import features_part
from hhrnet_deploy.quantize.plan import Placement, Split, make_plan
from hhrnet_deploy.quantize.rounding import Float64
from hhrnet_deploy.quantize.scales import tensor_scale
from hhrnet_deploy.quantize.topology import CONVOLUTIONS, Topology, ordered
from hhrnet_deploy.quantize.weights import input_moments, quantized_weight
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.quantization import LayerSensitivity

if TYPE_CHECKING:
    from hhrnet_deploy.quantize.typed import Source

Pixels = npt.NDArray[np.uint8]
Done = Callable[[int, str], None]
_SHOWN = 40


def measure_sensitivity(
    source: Source,
    family: Family,
    images: Pixels,
    *,
    progress: Done | None = None,
) -> tuple[LayerSensitivity, ...]:
    """The noise each convolution of the plan brings to the heads, most first.

    Args:
        source: graph and figures.
        family: whose int8 (one sign bit more or less).
        images: (N, H, W, 3) uint8 RGB warped, H and W multiples of 32; a few small ones do.
        progress: called with (layers done, name).

    Returns:
        By noise, largest first; equal noises by name.
    """
    placement = make_plan(source.topology)
    session = _Switched(source, placement, family, images)
    work = multiply_adds(source.topology, source.short_side)
    found = []
    for number, name in enumerate(placement.quantized):
        found.append(LayerSensitivity(name=name, noise=session.noise(name), multiply_adds=round(work[name] / 1e6, 3)))
        if progress is not None:
            progress(number + 1, name)
    return tuple(sorted(found, key=lambda layer: (-layer.noise, layer.name)))


class _Switched:
    """The network with a switch per convolution."""

    def __init__(self, source: Source, placement: Placement, family: Family, images: Pixels) -> None:
        import onnxruntime

        self._names = placement.quantized
        model = _switched_model(source, placement, family)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        pixels = normalize(images) if source.metadata.input == "float" else images
        self._feed = {source.topology.model.graph.input[0].name: pixels}
        self._reference = self._heads(None)

    def _heads(self, chosen: str | None) -> list[npt.NDArray[np.float32]]:
        switches = {_switch(name): np.array(name == chosen, np.float32) for name in self._names}
        return list(self._session.run(None, {**self._feed, **switches}))

    def noise(self, name: str) -> float:
        """Mean over the heads of the squared error, in units of the head's own square."""
        pairs = zip(self._reference, self._heads(name), strict=True)
        return float(np.mean([_relative_square(expected, got) for expected, got in pairs]))


def _relative_square(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    reference = expected.astype(np.float64)
    power = float(np.square(reference).sum())
    return float(np.square(got - reference).sum()) / power if power else 0.0


def _switch(name: str) -> str:
    return f"{name}/switch"


def _switched_model(source: Source, placement: Placement, family: Family) -> onnx.ModelProto:
    topology = source.topology
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}{number}"
    nodes = {node.name: node for node in model.graph.node}
    added: list[onnx.NodeProto] = []
    constants: dict[str, npt.NDArray[Any]] = {}
    errors: dict[str, str] = {}
    for read in placement.reads:
        node = nodes[read.node]
        if node.op_type not in CONVOLUTIONS:
            continue
        split = placement.split if placement.split and placement.split.node == node.name else None
        if read.tensor not in errors:
            scale, zero = tensor_scale(topology, source.statistics, read.tensor, family)
            errors[read.tensor] = _rounding_error(read.tensor, scale, zero, added, constants)
        mixed = _mixed(read.tensor, errors[read.tensor], node.name, "activation", added)
        weight = topology.constant(node.input[1])
        error = np.zeros_like(weight)
        if split is None:
            node.input[read.index] = mixed
            moments = input_moments(topology, source.statistics, topology.nodes[node.name], family)
            error += _weight_error(weight, node, family, moments)
        else:
            nodes[split.concat].input[0] = mixed
            part = features_part(topology, split, fold=family.fold_coarse)
            error[: split.channels] = _weight_error(part.weight, node, family)
            if part.bias_map is not None:
                nodes[split.concat].input[1] = _coarse_of(topology, split, f"{node.name}/activation_scaled", added)
        constants[f"{node.name}/weight_error"] = error
        node.input[1] = _mixed(node.input[1], f"{node.name}/weight_error", node.name, "weight", added)
        model.graph.input.append(helper.make_tensor_value_info(_switch(node.name), TensorProto.FLOAT, []))
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    everything = [*nodes.values(), *added]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered(model, everything)]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _rounding_error(tensor: str, scale: Any, zero: Any, added: list[onnx.NodeProto], constants: dict[str, Any]) -> str:
    """Nodes for dequantise(quantise(x)) - x."""
    constants[f"{tensor}/scale"], constants[f"{tensor}/zero_point"] = scale, zero
    pair = [f"{tensor}/scale", f"{tensor}/zero_point"]
    steps = (("QuantizeLinear", [tensor, *pair]), ("DequantizeLinear", [f"{tensor}/e0", *pair]))
    for number, (kind, inputs) in enumerate(steps):
        added.append(helper.make_node(kind, inputs, [f"{tensor}/e{number}"], name=f"{tensor}/e{number}"))
    added.append(helper.make_node("Sub", [f"{tensor}/e1", tensor], [f"{tensor}/error"], name=f"{tensor}/error"))
    return f"{tensor}/error"


def _mixed(exact: str, error: str, name: str, what: str, added: list[onnx.NodeProto]) -> str:
    """Nodes for exact + switch * error."""
    scaled, output = f"{name}/{what}_scaled", f"{name}/{what}_mixed"
    added.append(helper.make_node("Mul", [error, _switch(name)], [scaled], name=scaled))
    added.append(helper.make_node("Add", [exact, scaled], [output], name=output))
    return output


def _coarse_of(topology: Topology, split: Split, error: str, added: list[onnx.NodeProto]) -> str:
    """Nodes for coarse of features with ``error``, as a deconvolution sees it that took coarse in."""
    head = topology.nodes[topology.heads[0]]
    change, output = f"{split.node}/coarse_change", f"{split.node}/coarse_mixed"
    added.append(helper.make_node("Conv", [error, head.input[1]], [change], name=change))
    added.append(helper.make_node("Add", [split.coarse, change], [output], name=output))
    return output


def _weight_error(
    weight: npt.NDArray[np.float32], node: onnx.NodeProto, family: Family, moments: Float64 | None = None
) -> npt.NDArray[np.float32]:
    values, scale, axis = quantized_weight(weight, node, family, moments)
    shape = [-1 if number == axis else 1 for number in range(weight.ndim)]
    return values.astype(np.float32) * scale.reshape(shape) - weight


def plot_sensitivity(layers: tuple[LayerSensitivity, ...], kept: frozenset[str], path: Path) -> None:
    """A bar chart of the most sensitive layers in decibels, the ones in higher precision marked; PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from hhrnet_deploy.lazy import require

    require("matplotlib", purpose="the plot of the sensitivity")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [layer for layer in layers if layer.noise > 0][:_SHOWN]
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = [layer.name.strip("/") for layer in shown]
    ratios = [-10 * np.log10(layer.noise) for layer in shown]
    colours = ["tab:orange" if layer.name in kept else "tab:blue" for layer in shown]
    axes.barh(labels, ratios, color=colours)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("signal-to-noise of the heads with this layer alone in int8, dB (orange: kept in higher precision)")
    # Fixed metadata: equal figures make equal bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
