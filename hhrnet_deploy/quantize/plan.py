"""Where HRNet is quantised: one placement for every target, decided on the graph alone.

Rules, each with its reason:

* Every convolution computes in int8, weights per output channel, bias untouched, except the two heads
  (``final_layers``): heat maps and tags are read to a fraction of a pixel and of a tag distance.
* The transposed convolution reads ``concat(features, coarse)``. It is linear, so it is split exactly into one of the
  features, in int8, and one of coarse, in higher precision: coarse and the tags are never quantised.
* Both inputs of a residual sum and of the sums between resolutions are quantised, and so is what a Resize enlarges:
  the tensors between convolutions stay in 8 bits. A Resize copies values, so its output has the scale of its input.
* The sum whose result only the fine head reads stays in higher precision on its convolution's side.
* So do what the last exchange between resolutions enlarges, and the convolution's side of the block before it: their
  rounding would go straight into coarse (docs/int8.md).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import onnx

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.topology import CONVOLUTIONS, Topology


class Role(StrEnum):
    """What a quantised tensor is read as; emitters leave out the roles that their target does not want."""

    CONVOLUTION = "convolution"
    SKIP = "skip"
    BRANCH = "branch"
    SUM = "sum"
    RESIZE = "resize"


@dataclass(frozen=True)
class Read:
    """Input ``index`` of ``node`` reads ``tensor`` quantised."""

    node: str
    index: int
    tensor: str
    role: Role


@dataclass(frozen=True)
class Split:
    """A transposed convolution of a concatenation, to be split by input channels.

    Attributes:
        node: the transposed convolution.
        concat: the concatenation in front of it.
        features, coarse: its two inputs.
        channels: how many of the input channels are features.
    """

    node: str
    concat: str
    features: str
    coarse: str
    channels: int


@dataclass(frozen=True)
class Placement:
    """The plan.

    Attributes:
        quantized: names of the convolutions that compute in int8, in execution order.
        kept: convolutions in higher precision, with the reason.
        reads: the tensors that are read quantised, and by whom.
        split: how the transposed convolution is split; None when it does not read coarse.
    """

    quantized: tuple[str, ...]
    kept: dict[str, str]
    reads: tuple[Read, ...]
    split: Split | None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The quantised tensors, each once, in the order of their first reader."""
        return tuple(dict.fromkeys(read.tensor for read in self.reads))


HEAD = "head: coarse, fine and the tags are never quantised"
BUDGET = "accuracy budget"


def make_plan(topology: Topology, *, keep: Collection[str] = ()) -> Placement:
    """Decide the placement.

    Args:
        topology: of the float32 graph.
        keep: names of further convolutions that stay in higher precision (the accuracy budget's choice).

    Raises:
        InputError: a name in ``keep`` is no convolution of the graph.
    """
    convolutions = topology.convolutions()
    names = [node.name for node in convolutions]
    unknown = sorted(set(keep) - set(names))
    if unknown:
        raise InputError(f"The graph has no convolution {unknown[0]!r} to keep in higher precision.")
    kept = {name: HEAD for name in names if name in topology.heads}
    kept |= {name: BUDGET for name in names if name in keep and name not in kept}
    splits = [split for node in convolutions if node.name not in kept and (split := _split(topology, node))]
    last = _last_exchange(topology)
    everywhere = (read for node in topology.nodes.values() for read in _reads(topology, node, kept, splits))
    reads = [read for read in everywhere if read.tensor not in last]
    return Placement(
        quantized=tuple(name for name in names if name not in kept),
        kept=kept,
        reads=tuple(reads),
        split=splits[0] if splits else None,
    )


def _last_exchange(topology: Topology) -> frozenset[str]:
    """What the sum that coarse reads enlarges, before and after, and the last convolution of the block that it adds."""
    terms = _terms(topology, _before_relu(topology, topology.nodes[topology.heads[0]].input[0]))
    sources = {tensor: topology.made_by(tensor) for tensor in terms}
    enlarged = {tensor: source.input[0] for tensor, source in sources.items() if source and source.op_type == "Resize"}
    if not enlarged:
        return frozenset()
    block = [
        tensor for term in terms if term not in enlarged for tensor in _terms(topology, _before_relu(topology, term))
    ]
    branches = [tensor for tensor in block if _role(topology, tensor) is Role.BRANCH]
    return frozenset([*enlarged, *enlarged.values(), *branches])


def _terms(topology: Topology, node: onnx.NodeProto | None) -> list[str]:
    """The tensors that ``node`` adds up, through sums of sums; none when it is no sum."""
    if node is None or node.op_type != "Add":
        return []
    operands = [tensor for _, tensor in topology.activations(node)]
    return [term for tensor in operands for term in _terms(topology, topology.made_by(tensor)) or [tensor]]


def _before_relu(topology: Topology, tensor: str) -> onnx.NodeProto | None:
    """The node that makes ``tensor``, or the one in front of it where that is a ReLU."""
    node = topology.made_by(tensor)
    return topology.made_by(node.input[0]) if node is not None and node.op_type == "Relu" else node


def _split(topology: Topology, node: onnx.NodeProto) -> Split | None:
    """How to split ``node`` when it reads a concatenation that ends with coarse."""
    joined = topology.made_by(node.input[0])
    if node.op_type != "ConvTranspose" or joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
        return None
    features, coarse = joined.input
    head = topology.nodes[topology.heads[0]]
    if coarse != head.output[0]:
        return None
    channels = topology.constants[node.input[1]].dims[0] - topology.constants[head.input[1]].dims[0]
    return Split(node.name, joined.name, features, coarse, int(channels))


def _reads(topology: Topology, node: onnx.NodeProto, kept: dict[str, str], splits: list[Split]) -> list[Read]:
    if node.op_type in CONVOLUTIONS:
        if node.name in kept:
            return []
        tensor = next((split.features for split in splits if split.node == node.name), node.input[0])
        return [Read(node.name, 0, tensor, Role.CONVOLUTION)]
    if node.op_type == "Resize":
        source = node.input[0]
        return [Read(node.name, 0, source, Role.RESIZE)] if _is_int8_side(topology, source, kept) else []
    if node.op_type == "Add":
        return _sum_reads(topology, node, kept)
    return []


def _sum_reads(topology: Topology, node: onnx.NodeProto, kept: dict[str, str]) -> list[Read]:
    operands = topology.activations(node)
    if len(operands) != 2:
        return []
    last = _feeds_only(topology, node, topology.heads[1])
    reads = []
    for index, tensor in operands:
        role = _role(topology, tensor)
        if _is_int8_side(topology, tensor, kept) and not (last and role is Role.BRANCH):
            reads.append(Read(node.name, index, tensor, role))
    return reads


def _role(topology: Topology, tensor: str) -> Role:
    source = topology.made_by(tensor)
    if source is not None and source.op_type == "Add":
        return Role.SUM
    if source is not None and source.op_type == "Conv" and len(topology.consumers[tensor]) == 1:
        return Role.BRANCH
    return Role.SKIP


def _is_int8_side(topology: Topology, tensor: str, kept: dict[str, str]) -> bool:
    """Whether no convolution that is kept in higher precision made the tensor, directly or through a Resize."""
    source = topology.made_by(tensor)
    while source is not None and source.op_type == "Resize":
        source = topology.made_by(source.input[0])
    return source is not None and source.name not in kept


def _feeds_only(topology: Topology, node: onnx.NodeProto, reader: str) -> bool:
    """Whether the result of ``node``, after its ReLU, goes to ``reader`` and nowhere else."""
    edges = topology.consumers.get(node.output[0], ())
    if len(edges) == 1 and topology.nodes[edges[0].node].op_type == "Relu":
        edges = topology.consumers.get(topology.nodes[edges[0].node].output[0], ())
    return len(edges) == 1 and edges[0].node == reader
