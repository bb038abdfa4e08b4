"""From plan and ranges to a typed ONNX graph with Q/DQ pairs; one family per kind of target.

Equal inputs give equal bytes: names come from the graph, nothing depends on time or hashing order. Weights that are
rounded together (`rounding`) go through LAPACK, whose last bits are those of one kind of processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hhrnet_deploy.quantize.family import Family
from hhrnet_deploy.quantize.fold import features_part
from hhrnet_deploy.quantize.plan import Placement, Split
from hhrnet_deploy.quantize.scales import tensor_scale
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, ordered
from hhrnet_deploy.quantize.weights import input_moments, quantized_weight

# float16 scales of Q/DQ came with ONNX 19; TensorRT 10 reads it.
_HALF_OPSET = 19


def emit(
    topology: Topology,
    placement: Placement,
    statistics: Statistics,
    family: Family,
) -> onnx.ModelProto:
    """The quantised graph, float32 in its float parts (`half.to_half` types them for TensorRT).

    Args:
        topology: of the float32 graph.
        placement: where to quantise.
        statistics: of the same network.
        family: for whom.

    Raises:
        InputError: the statistics lack a tensor that the plan quantises.
    """
    return _Writer(topology, placement, statistics, family).written()


class _Writer:
    def __init__(self, topology: Topology, placement: Placement, statistics: Statistics, family: Family) -> None:
        self.topology, self.placement, self.statistics = topology, placement, statistics
        self.family = family
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.paired: dict[str, str] = {}
        self.reads = {(read.node, read.index): read.tensor for read in placement.reads if read.role in family.roles}

    def written(self) -> onnx.ModelProto:
        quantized = set(self.placement.quantized)
        for node in self.topology.nodes.values():
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, _ in enumerate(node.input):
                tensor = self.reads.get((node.name, index))
                if tensor is not None:
                    copy.input[index] = self._dequantized(tensor)
            if self.placement.split is not None and node.name == self.placement.split.node:
                self._append_split(copy, self.placement.split)
            elif node.name in quantized:
                copy.input[1] = self._weight(node, node.name, self.topology.constant(node.input[1]))
                self.nodes.append(copy)
            elif self.family.matmul_heads and node.name in self.topology.heads:
                self._append_head(copy)
            else:
                self.nodes.append(copy)
        return self._model()

    def _dequantized(self, tensor: str) -> str:
        """The name of the quantised and dequantised ``tensor``; the pair is made at the first call."""
        if tensor not in self.paired:
            scale, zero_point = tensor_scale(self.topology, self.statistics, tensor, self.family)
            scale_name = self._constant(f"{tensor}/scale", scale)
            zero = self._constant(f"{tensor}/zero_point", zero_point)
            clips_at_zero = zero_point.dtype == np.uint8
            source = self._before_relu(tensor) if clips_at_zero and self.family.fold_relu else tensor
            self.nodes += [
                helper.make_node(
                    "QuantizeLinear",
                    [source, scale_name, zero],
                    [f"{tensor}/quantized"],
                    name=f"{tensor}/QuantizeLinear",
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [f"{tensor}/quantized", scale_name, zero],
                    [f"{tensor}/dequantized"],
                    name=f"{tensor}/DequantizeLinear",
                ),
            ]
            self.paired[tensor] = f"{tensor}/dequantized"
        return self.paired[tensor]

    def _before_relu(self, tensor: str) -> str:
        """uint8 with zero point 0 clips at 0 as the ReLU does, so quantising its input gives the same numbers."""
        node = self.topology.made_by(tensor)
        return str(node.input[0]) if node is not None and node.op_type == "Relu" else tensor

    def _weight(self, node: onnx.NodeProto, name: str, weight: npt.NDArray[np.float32]) -> str:
        """A DequantizeLinear of the int8 weights, one scale per output channel."""
        moments = input_moments(self.topology, self.statistics, node, self.family)
        values, scale, axis = quantized_weight(weight, node, self.family, moments)
        inputs = [
            self._constant(f"{name}/weight_quantized", values),
            self._constant(f"{name}/weight_scale", scale),
            self._constant(f"{name}/weight_zero_point", np.zeros(scale.shape, np.int8)),
        ]
        output = f"{name}/weight_dequantized"
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [output], name=f"{name}/weight_DequantizeLinear", axis=axis)
        )
        return output

    def _append_split(self, node: onnx.NodeProto, split: Split) -> None:
        part = features_part(self.topology, split, fold=self.family.fold_coarse)
        features, other = onnx.NodeProto(), onnx.NodeProto()
        features.CopyFrom(node)
        other.CopyFrom(node)
        features.name, other.name = f"{node.name}/features", f"{node.name}/coarse"
        features.output[0], other.output[0] = f"{node.name}/features_output", f"{node.name}/coarse_output"
        features.input[1] = self._weight(node, features.name, part.weight)
        del other.input[2:]
        if part.bias_map is None:
            other.input[0] = split.coarse
            weight = self.topology.constant(node.input[1])[split.channels :]
        else:
            other.input[0] = self._ones(other.name, split.features)
            weight = part.bias_map
        other.input[1] = self._constant(f"{other.name}/weight", weight)
        total = helper.make_node(
            "Add", [features.output[0], other.output[0]], [node.output[0]], name=f"{node.name}/sum"
        )
        self.nodes += [features, other, total]

    def _ones(self, name: str, like: str) -> str:
        """A tensor of ones, (1, 1, H, W) with the height and width of ``like``; a constant where these are fixed."""
        sides = [
            self._constant(f"{name}/sides_{what}", np.array([value], np.int64))
            for what, value in (("from", 2), ("to", 4))
        ]
        single = self._constant(f"{name}/single", np.array([1, 1], np.int64))
        one = numpy_helper.from_array(np.ones(1, np.float32))
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Shape", [like], {}),
            ("Slice", [f"{name}/0", *sides], {}),
            ("Concat", [single, f"{name}/1"], {"axis": 0}),
            ("ConstantOfShape", [f"{name}/2"], {"value": one}),
        ]
        self.nodes += _chain(name, steps, f"{name}/3")
        return f"{name}/3"

    def _append_head(self, node: onnx.NodeProto) -> None:
        """A 1x1 convolution whose result leaves the graph, as a matrix product, where the graph has one size.

        OpenVINO computes convolutions channels last; a product of the transposed rows writes (K, H*W) at once, where
        the convolution needs a slow reordering of its channels afterwards.
        """
        weight, shape = self.topology.constant(node.input[1]), _head_shape(self.topology, node)
        if shape is None or weight.shape[2:] != (1, 1):
            self.nodes.append(node)
        else:
            self.nodes += self._product(node, weight, [0, weight.shape[0], *shape])

    def _product(self, node: onnx.NodeProto, weight: npt.NDArray[Any], shape: list[int]) -> list[onnx.NodeProto]:
        name, outputs = f"{node.name}/product", weight.shape[0]
        flat = self._constant(f"{name}/flat", np.array([0, -1, weight.shape[1]], np.int64))
        back = self._constant(f"{name}/shape", np.array(shape, np.int64))
        matrix = self._constant(f"{name}/matrix", weight.reshape(outputs, -1))
        bias = self._constant(f"{name}/column", self.topology.constant(node.input[2]).reshape(outputs, 1))
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Transpose", [node.input[0]], {"perm": [0, 2, 3, 1]}),
            ("Reshape", [f"{name}/0", flat], {}),
            ("Transpose", [f"{name}/1"], {"perm": [0, 2, 1]}),
            ("MatMul", [matrix, f"{name}/2"], {}),
            ("Add", [f"{name}/3", bias], {}),
            ("Reshape", [f"{name}/4", back], {}),
        ]
        return _chain(name, steps, str(node.output[0]))

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def _model(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.topology.model)
        graph = model.graph
        del graph.value_info[:]
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.constants.items())
        kept = _read_nodes(self.nodes, {output.name for output in graph.output})
        del graph.node[:]
        graph.node.extend(ordered(model, kept))
        drop_unread_constants(model)
        return model


def drop_unread_constants(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads, and sort the others by name."""
    read = {name for node in model.graph.node for name in node.input}
    kept = sorted((t for t in model.graph.initializer if t.name in read), key=lambda tensor: tensor.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def set_opset(model: onnx.ModelProto, version: int = _HALF_OPSET) -> None:
    """Raise the ONNX operator version; the operators of this graph mean the same from 13 on."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, version)


def _head_shape(topology: Topology, node: onnx.NodeProto) -> tuple[int, int] | None:
    """(height, width) of a head's output when the graph has one size."""
    output = topology.model.graph.output[topology.heads.index(node.name)]
    sides = [int(dim.dim_value) for dim in output.type.tensor_type.shape.dim[2:4]]
    return (sides[0], sides[1]) if len(sides) == 2 and all(sides) else None


def _chain(name: str, steps: list[tuple[str, list[str], dict[str, Any]]], output: str) -> list[onnx.NodeProto]:
    """Nodes that make ``name/0``, ``name/1``, ... and at last ``output``, from (type, inputs, attributes) of each."""
    outs = [f"{name}/{number}" for number in range(len(steps) - 1)] + [output]
    return [
        helper.make_node(kind, inputs, [out], name=f"{name}/{number}_{kind}", **attributes)
        for number, ((kind, inputs, attributes), out) in enumerate(zip(steps, outs, strict=True))
    ]


def _read_nodes(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """``nodes`` without those that nobody reads any more."""
    made = {name: node for node in nodes for name in node.output}
    alive: set[str] = set()
    waiting = [name for name in wanted if name in made]
    while waiting:
        node = made[waiting.pop()]
        if node.name not in alive:
            alive.add(node.name)
            waiting.extend(name for name in node.input if name in made)
    return [node for node in nodes if node.name in alive]
