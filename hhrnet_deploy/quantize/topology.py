"""HRNet's graph as the quantiser sees it: who makes and who reads each tensor, and where the heads begin.

Tensors have a *key* that is the same in every export of one network: with or without mirrored images, pixels or
normalised input, fixed or dynamic shapes. Statistics are kept under keys, so one calibration serves all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hhrnet_deploy.errors import InputError

CONVOLUTIONS = ("Conv", "ConvTranspose")
INPUT_KEY, COARSE_KEY, FINE_KEY = "input", "coarse", "fine"
# Moves or copies values and never makes new ones.
_PASS = ("Slice", "Identity", "Cast")


@dataclass(frozen=True)
class Edge:
    """One input of one node."""

    node: str
    index: int


@dataclass(frozen=True)
class Topology:
    """A float32 graph of hhrnet-deploy, indexed. The model is not to be changed while this is in use.

    Attributes:
        model: the graph itself.
        nodes: by name, in execution order.
        producer: tensor -> name of the node that makes it.
        consumers: tensor -> the inputs that read it.
        constants: initializers by name.
        heads: names of the convolutions that make coarse and fine.
        entry: the tensor that the first convolution reads.
    """

    model: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto]
    producer: dict[str, str]
    consumers: dict[str, tuple[Edge, ...]]
    constants: dict[str, onnx.TensorProto]
    heads: tuple[str, str]
    entry: str

    def made_by(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes ``tensor``; None for the graph's input."""
        name = self.producer.get(tensor)
        return None if name is None else self.nodes[name]

    def activations(self, node: onnx.NodeProto) -> list[tuple[int, str]]:
        """(index, tensor) of the inputs that are no constants."""
        return [(number, name) for number, name in enumerate(node.input) if name and name not in self.constants]

    def convolutions(self) -> list[onnx.NodeProto]:
        """Convolutions and transposed ones, in execution order."""
        return [node for node in self.nodes.values() if node.op_type in CONVOLUTIONS]

    def constant(self, name: str) -> npt.NDArray[Any]:
        """The value of an initializer."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def key(self, tensor: str) -> str:
        """The name under which statistics of ``tensor`` are kept."""
        if tensor == self.entry:
            return INPUT_KEY
        for head, key in zip(self.heads, (COARSE_KEY, FINE_KEY), strict=True):
            if tensor == self.nodes[head].output[0]:
                return key
        return tensor

    def is_rectified(self, tensor: str) -> bool:
        """Whether the values cannot be negative: a ReLU made them, or copied ones of a ReLU."""
        node = self.made_by(tensor)
        while node is not None and node.op_type == "Resize":
            node = self.made_by(node.input[0])
        return node is not None and node.op_type == "Relu"

    def digest(self) -> str:
        """SHA-256 of the network: layers, weights and tensor keys, whatever its shapes and conventions."""
        digest = hashlib.sha256()
        for node in self.convolutions():
            attributes = sorted((a.name, str(helper.get_attribute_value(a))) for a in node.attribute)
            reads = [self.key(name) for _, name in self.activations(node)]
            digest.update(repr((node.op_type, attributes, reads, self.key(node.output[0]))).encode())
            for name in node.input[1:]:
                value = self.constant(name)
                digest.update(repr(value.shape).encode())
                digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def read_topology(model: onnx.ModelProto, *, source: str = "the graph") -> Topology:
    """Index a graph of ``hhrnet export``.

    Raises:
        InputError: nodes without names or with equal ones, batch normalisation left over, a graph that is typed or
            quantised already, or outputs that no convolution makes.
    """
    nodes = {node.name: node for node in model.graph.node}
    if len(nodes) != len(model.graph.node) or "" in nodes:
        raise InputError(f"{source} has nodes without names or with equal ones.", hint=_EXPORT)
    _require_float_network(nodes, source)
    producer = {name: node.name for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return Topology(
        model=model,
        nodes=nodes,
        producer=producer,
        consumers=_consumers(model),
        constants=constants,
        heads=_heads(model, nodes, producer, source),
        entry=_entry(model, source),
    )


_EXPORT = "Export the checkpoint: hhrnet export CHECKPOINT -o heads.onnx"


def _require_float_network(nodes: dict[str, onnx.NodeProto], source: str) -> None:
    kinds = {node.op_type for node in nodes.values()}
    if kinds & {"QuantizeLinear", "DequantizeLinear"}:
        raise InputError(f"{source} is quantised already.", hint="Give the checkpoint or the float32 ONNX file.")
    if "BatchNormalization" in kinds:
        raise InputError(
            f"{source} still has batch normalisation; it has to be folded into the convolutions.",
            hint="Export it again without --no-simplify.",
        )


def _consumers(model: onnx.ModelProto) -> dict[str, tuple[Edge, ...]]:
    found: dict[str, list[Edge]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            found.setdefault(name, []).append(Edge(node.name, index))
    return {name: tuple(edges) for name, edges in found.items()}


def _heads(
    model: onnx.ModelProto, nodes: dict[str, onnx.NodeProto], producer: dict[str, str], source: str
) -> tuple[str, str]:
    found: list[str] = []
    for output in list(model.graph.output)[:2]:
        node = nodes[producer[output.name]]
        while node.op_type in _PASS:
            node = nodes[producer[node.input[0]]]
        if node.op_type != "Conv":
            raise InputError(f"{source}: the output {output.name} comes from {node.op_type}, expected a convolution.")
        found.append(node.name)
    if len(found) != 2 or found[0] == found[1]:
        raise InputError(f"{source} has {len(found)} heads, expected coarse and fine.", hint=_EXPORT)
    return found[0], found[1]


def _entry(model: onnx.ModelProto, source: str) -> str:
    for node in model.graph.node:
        if node.op_type == "Conv":
            return str(node.input[0])
    raise InputError(f"{source} has no convolution.", hint=_EXPORT)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or ``default``."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def strides(topology: Topology) -> dict[str, float]:
    """Tensor -> how many input pixels one of its pixels stands for, along each side.

    Raises:
        InputError: a Resize without constant scales.
    """
    factor = {topology.entry: 1.0}
    for node in topology.nodes.values():
        known = [factor[name] for _, name in topology.activations(node) if name in factor]
        if known:
            factor[node.output[0]] = max(known) * _scaling(topology, node)
    return factor


def _scaling(topology: Topology, node: onnx.NodeProto) -> float:
    if node.op_type == "Conv":
        return float(attribute(node, "strides", [1, 1])[0])
    if node.op_type == "ConvTranspose":
        return 1.0 / float(attribute(node, "strides", [1, 1])[0])
    if node.op_type == "Resize":
        scales = node.input[2] if len(node.input) > 2 else ""
        if scales not in topology.constants:
            raise InputError(f"Resize {node.name} has no constant scales.", hint=_EXPORT)
        return 1.0 / float(topology.constant(scales)[-1])
    return 1.0


def ordered(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes`` so that each comes after those it reads from, otherwise in the order given.

    Raises:
        ValueError: a cycle, or an input that nobody makes; a mistake in this program.
    """
    known = {"", *(tensor.name for tensor in model.graph.initializer), *(value.name for value in model.graph.input)}
    made = {name: number for number, node in enumerate(nodes) for name in node.output}
    waiting = [len({made[name] for name in node.input if name not in known and name in made}) for node in nodes]
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        missing = [name for name in node.input if name not in known and name not in made]
        if missing:
            raise ValueError(f"{node.name} reads {missing}, which nothing makes")
        for source in sorted({made[name] for name in node.input if name in made}):
            readers.setdefault(source, []).append(number)
    return [nodes[number] for number in _kahn(waiting, readers)]


def _kahn(waiting: list[int], readers: dict[int, list[int]]) -> list[int]:
    import heapq

    ready = [number for number, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers.get(number, []):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) != len(waiting):
        raise ValueError("the graph has a cycle")
    return order
