"""float16: which layers, the typed graph, and the float32 graph that emulates it.

Everything from the first convolution on is float16; pixels are normalised in float32 and the heads leave as float32.
Layers whose activations come near the end of float16's range on the calibration set stay float32 and are listed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.quantize.emit import drop_unread_constants, set_opset
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, ordered, strides

HALF_MAX = 65504.0
# Images that were not seen may go further than those that were.
MARGIN = 2.0
_WEIGHTS = "DequantizeLinear"
# Inputs that keep their own type whatever the node computes in.
_FIXED_INPUTS = {"Resize": (1, 2, 3), "Reshape": (1,), "QuantizeLinear": (2,), "DequantizeLinear": (0, 2)}


def layers_out_of_range(topology: Topology, statistics: Statistics) -> dict[str, float]:
    """Tensors that float16 cannot be trusted with, and their largest magnitude on the calibration set."""
    limit = HALF_MAX / MARGIN
    found = {}
    for tensor in strides(topology):
        figures = statistics.tensors.get(topology.key(tensor))
        if figures is not None and figures.largest > limit:
            found[tensor] = figures.largest
    return found


def kept_nodes(topology: Topology, tensors: Collection[str]) -> set[str]:
    """The nodes that make or read one of the tensors: these stay float32."""
    nodes = {topology.producer[tensor] for tensor in tensors if tensor in topology.producer}
    return nodes | {edge.node for tensor in tensors for edge in topology.consumers.get(tensor, ())}


def to_half(model: onnx.ModelProto, entry: str, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The typed graph: float16 between ``entry`` and the heads, casts at the borders; a copy.

    Args:
        model: float32, plain or with Q/DQ pairs; scales have to be representable in float16.
        entry: the tensor that the first convolution reads.
        keep: names of nodes that stay float32.
    """
    typed = _Typing(model, entry, set(keep))
    return typed.converted()


def emulate(model: onnx.ModelProto, entry: str, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 graph that gives float16's numbers: weights and every layer's output are rounded to half and back.

    Sums inside a layer stay float32, as on tensor cores. CPU libraries run float16 graphs in float32, so the typed
    graph itself would say nothing about float16 activations there.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, nodes = copy.graph, []
    half = _half_nodes(copy, entry) - set(keep)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    rounded: dict[str, str] = {}
    for node in [*graph.node]:
        if node.name not in half:
            nodes.append(node)
            continue
        for index, name in _float_constants(node, constants):
            rounded.setdefault(name, f"{name}/rounded")
            node.input[index] = rounded[name]
        if node.name in _entries(copy, entry):
            _replace(node, entry, f"{entry}/rounded")
        output = node.output[0]
        node.output[0] = f"{output}/exact"
        nodes += [node, *_round_trip(f"{output}/exact", output)]
    nodes += _round_trip(entry, f"{entry}/rounded")
    graph.initializer.extend(_rounded(constants[name], new) for name, new in rounded.items())
    del graph.node[:], graph.value_info[:]
    graph.node.extend(ordered(copy, nodes))
    drop_unread_constants(copy)
    return copy


def _round_trip(source: str, target: str) -> list[onnx.NodeProto]:
    # Named after the target: a tensor is rounded once.
    return [
        helper.make_node("Cast", [source], [f"{target}/half"], name=f"{target}/to_half", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{target}/half"], [target], name=f"{target}/to_float", to=TensorProto.FLOAT),
    ]


def _rounded(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    value = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(_clipped(value).astype(np.float32), name)


def _clipped(value: Any) -> Any:
    return np.clip(value, -HALF_MAX, HALF_MAX).astype(np.float16)


def _half_nodes(model: onnx.ModelProto, entry: str) -> set[str]:
    """Nodes between ``entry`` and the heads, and the dequantised weights they read."""
    reached, nodes = {entry}, set()
    for node in model.graph.node:
        if reached & set(node.input) and node.op_type not in ("Slice", "Shape", "Gather", "Cast"):
            nodes.add(node.name)
            reached |= set(node.output)
    read = {name for node in model.graph.node if node.name in nodes for name in node.input}
    weights = {n.name for n in model.graph.node if n.op_type == _WEIGHTS and n.output[0] in read}
    return nodes | weights


def _entries(model: onnx.ModelProto, entry: str) -> set[str]:
    return {node.name for node in model.graph.node if entry in node.input}


def _replace(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def _float_constants(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[tuple[int, str]]:
    fixed = _FIXED_INPUTS.get(node.op_type, ())
    return [
        (index, name)
        for index, name in enumerate(node.input)
        if index not in fixed and name in constants and constants[name].data_type == TensorProto.FLOAT
    ]


class _Typing:
    def __init__(self, model: onnx.ModelProto, entry: str, keep: set[str]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self._half = _half_nodes(self._model, entry) - keep
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._producer = {name: node for node in graph.node for name in node.output}
        self._made: dict[str, onnx.NodeProto] = {}
        self._added: dict[str, onnx.TensorProto] = {}

    def converted(self) -> onnx.ModelProto:
        graph = self._model.graph
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            self._convert(node)
        for name in sorted(outputs):
            self._return_float(name)
        nodes = [*graph.node, *self._made.values()]
        graph.initializer.extend(self._added.values())
        del graph.value_info[:]
        set_opset(self._model)
        ordered_nodes = ordered(self._model, nodes)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered_nodes]
        del graph.node[:]
        graph.node.extend(copies)
        drop_unread_constants(self._model)
        return self._model

    def _convert(self, node: onnx.NodeProto) -> None:
        half = node.name in self._half
        if half:
            for index, name in _float_constants(node, self._constants):
                node.input[index] = self._half_constant(name)
        fixed = _FIXED_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self._constants or not name or index in fixed or not self._is_float(name):
                continue
            if half != (self._producer[name].name in self._half if name in self._producer else False):
                node.input[index] = self._cast(name, TensorProto.FLOAT16 if half else TensorProto.FLOAT)

    def _is_float(self, name: str) -> bool:
        """Whether a tensor holds activations or weights; a half-set Q is never read through here but by its DQ."""
        source = self._producer.get(name)
        if source is None:
            return name not in self._added and name not in self._constants and self._input_is_float(name)
        return source.op_type not in ("Shape", "Gather", "QuantizeLinear")

    def _input_is_float(self, name: str) -> bool:
        inputs = {value.name: value.type.tensor_type.elem_type for value in self._model.graph.input}
        return inputs.get(name) == TensorProto.FLOAT

    def _cast(self, name: str, kind: int) -> str:
        suffix = "half" if kind == TensorProto.FLOAT16 else "float"
        output = f"{name}/{suffix}"
        self._made.setdefault(
            output, helper.make_node("Cast", [name], [output], name=f"{name}/cast_to_{suffix}", to=kind)
        )
        return output

    def _half_constant(self, name: str) -> str:
        new = f"{name}/half"
        if new not in self._added:
            self._added[new] = numpy_helper.from_array(_clipped(numpy_helper.to_array(self._constants[name])), new)
        return new

    def _return_float(self, name: str) -> None:
        """A head that a half node makes is renamed, and a cast to float32 takes its name."""
        source = self._producer[name]
        if source.name not in self._half:
            return
        inner = f"{name}/typed"
        for node in [*self._model.graph.node, *self._made.values()]:
            _replace(node, name, inner)
        source.output[0] = inner
        self._made[name] = helper.make_node("Cast", [inner], [name], name=f"{name}/to_wire", to=TensorProto.FLOAT)
