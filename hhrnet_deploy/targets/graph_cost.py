"""What a graph costs: multiply-adds of every layer with weights, in which type, and the memory it needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.target import Layer

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Nodes that change neither the number type that a layer computes in nor which tensor it reads.
_PASSED = ("Cast", "Identity")
_WEIGHTED_LAYER = re.compile(r"conv|correlation|gemm|matmul|matrix", re.IGNORECASE)
_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class GraphCost(BaseModel):
    """What one image costs.

    Attributes:
        height, width: of the image, in pixels.
        multiply_adds: of convolutions and matrix products; a transposed convolution counts once per input pixel and
            tap. A graph with the mirrored image inside counts both.
        weights_bytes: of the constants, as the graph stores them.
        activations_bytes: the most that lives at one time if every tensor is kept from the node that makes it to the
            last that reads it and nothing is fused; engines need less. None where shapes are unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int
    width: int
    multiply_adds: int = Field(ge=0)
    weights_bytes: int = Field(ge=0)
    activations_bytes: int | None = Field(None, ge=0)


@dataclass(frozen=True)
class NodeCost:
    """One node with weights.

    Attributes:
        name, type: of the node; ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul``.
        outputs: names of its tensors.
        shape: of the output for one image.
        multiply_adds: for one image.
        precision: ``int8`` where both inputs are dequantised, otherwise the type of the data.
    """

    name: str
    type: str
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    multiply_adds: int
    precision: str


def read_cost(path: Path, size: tuple[int, int]) -> tuple[GraphCost, tuple[NodeCost, ...]]:
    """Count an ONNX file for one image.

    Args:
        path: the graph; its input is (N, H, W, 3) or (N, 3, H, W).
        size: (H, W) in pixels, for a graph without a fixed one.

    Raises:
        InputError: no readable graph, or shapes that cannot be told.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's and ONNX's own classes share no base with a name.
        raise InputError(f"{path} is not a readable ONNX file: {error}.") from error
    height, width = _fix_input(model, size)
    try:
        shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"The shapes of {path} cannot be told: {error}.") from error
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
    types = _types(model)
    nodes = tuple(_node_cost(node, shapes, makers, types, path) for node in graph.node if node.op_type in WEIGHTED)
    cost = GraphCost(
        height=height,
        width=width,
        multiply_adds=sum(node.multiply_adds for node in nodes),
        weights_bytes=sum(_bytes(tuple(t.dims), t.data_type) for t in constants.values()),
        activations_bytes=_peak(graph, shapes, types, constants),
    )
    return cost, nodes


def assign_work(layers: tuple[Layer, ...], nodes: Iterable[NodeCost]) -> tuple[Layer, ...]:
    """The engine's layers with the multiply-adds of the graph's nodes that they were made of.

    One that several layers name goes to the layer that is a convolution or product by its type, and to the one with the
    node's own name among those. A node that no layer names is left out, except when it is the only one and one
    convolution or product names no node: OpenVINO renames a transposed convolution that it gives another bias.
    """
    by_part: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        for part in {layer.name, *layer.nodes}:
            by_part.setdefault(part, []).append(number)
    work: dict[int, dict[str, int]] = {}
    nameless = []
    for node in nodes:
        names = (node.name, f"{node.name}/WithoutBiases", *node.outputs)
        found = [number for name in names for number in by_part.get(name, [])]
        if found:
            best = max(found, key=lambda number: (is_weighted(layers[number]), node.name in layers[number].name))
            work.setdefault(best, {})[node.name] = node.multiply_adds
        else:
            nameless.append(node)
    idle = [number for number, layer in enumerate(layers) if is_weighted(layer) and number not in work]
    if len(nameless) == len(idle) == 1:
        work[idle[0]] = {nameless[0].name: nameless[0].multiply_adds}
    return tuple(
        layer.model_copy(update={"work": work[number]}) if number in work else layer
        for number, layer in enumerate(layers)
    )


def is_weighted(layer: Layer) -> bool:
    """Whether the type of a layer, in its target's words, says that it computes convolutions or products."""
    return _WEIGHTED_LAYER.search(layer.type) is not None


def _fix_input(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[int, int]:
    """Give the input one image of that size where it leaves room for it; (H, W) as they are then."""
    if len(model.graph.input) != 1 or len(model.graph.input[0].type.tensor_type.shape.dim) != 4:
        raise InputError(f"Expected a graph with one input of 4 dimensions, got {len(model.graph.input)} inputs.")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    planes_first = dims[1].dim_value in (1, 3) and dims[3].dim_value not in (1, 3)
    wanted = (1, 3, *size) if planes_first else (1, *size, 3)
    fixed = [dim.dim_value or value for dim, value in zip(dims, wanted, strict=True)]
    for dim, value in zip(dims, [1, *fixed[1:]], strict=True):
        dim.dim_value = value
    for value in (*model.graph.value_info, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    height, width = fixed[2:] if planes_first else fixed[1:3]
    return height, width


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _types(model: onnx.ModelProto) -> dict[str, int]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _node_cost(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int, ...]],
    makers: dict[str, onnx.NodeProto],
    types: dict[str, int],
    path: Path,
) -> NodeCost:
    output, weights = shapes.get(node.output[0]), shapes.get(node.input[1])
    data = shapes.get(node.input[0])
    if output is None or weights is None or data is None:
        raise InputError(f"The shapes of {node.op_type} {node.name} in {path} cannot be told from the graph.")
    return NodeCost(
        name=node.name,
        type=node.op_type,
        outputs=tuple(node.output),
        shape=output,
        multiply_adds=_multiply_adds(node.op_type, data, weights, output),
        precision=_precision(node, makers, types),
    )


def _multiply_adds(kind: str, data: tuple[int, ...], weights: tuple[int, ...], output: tuple[int, ...]) -> int:
    if kind in ("Conv", "ConvTranspose"):
        grid = output if kind == "Conv" else data
        return math.prod(weights) * grid[0] * math.prod(grid[2:])
    return math.prod(output) * data[-1]


def _precision(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], types: dict[str, int]) -> str:
    import onnx

    if all(_is_dequantized(name, makers) for name in node.input[:2]):
        return "int8"
    name = str(onnx.TensorProto.DataType.Name(types.get(node.input[0], 0))).lower()
    return _TYPES.get(name, name)


def _is_dequantized(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    node = makers.get(name)
    while node is not None and node.op_type in _PASSED:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _peak(
    graph: onnx.GraphProto,
    shapes: dict[str, tuple[int, ...]],
    types: dict[str, int],
    constants: Mapping[str, object],
) -> int | None:
    """The largest sum of living tensors over the nodes in their order; constants and what is made of them left out."""
    fixed = set(constants)
    last = {name: number for number, node in enumerate(graph.node) for name in node.input}
    outputs = {value.name for value in graph.output}
    alive = {value.name: _bytes(shapes[value.name], types[value.name]) for value in graph.input}
    peak = sum(alive.values())
    for number, node in enumerate(graph.node):
        if all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            continue
        for name in node.output:
            # A slice whose bounds are computed counts as the whole.
            shape = shapes.get(name) or shapes.get(node.input[0])
            if shape is None or name not in types:
                return None
            alive[name] = _bytes(shape, types[name])
        peak = max(peak, sum(alive.values()))
        for name in {*node.input, *node.output} - outputs:
            if last.get(name, -1) <= number:
                alive.pop(name, None)
    return peak


def _bytes(shape: tuple[int, ...], kind: int) -> int:
    import onnx

    return int(math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
