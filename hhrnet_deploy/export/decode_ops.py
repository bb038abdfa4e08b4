"""The decode ops in an exported graph: appended to finished heads, and taken off again.

They come last: onnxsim, ONNX Runtime and the quantiser do not know them, so a graph is simplified, compared and typed
with heads as outputs. float16 heads go into the ops as they are, without the cast that would bring them to the wire:
the kernels widen on load, which changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.plugin_ops import DOMAIN, PEOPLE, SKELETON_TENSOR, VERSION, Step, chain
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.options import check_decode
from hhrnet_deploy.targets.graph import GraphMetadata

_OPSET = 1
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def with_decode(model: onnx.ModelProto, config: DecodeConfig) -> onnx.ModelProto:
    """A copy of a heads graph that decodes inside and returns people.

    Its outputs are keypoints (N, M*K, K, 3), scores (N, M*K), joint_tags (N, M*K, K, L) and person_tags (N, M*K, L),
    all float32, and count (N,) int32, the number of places that are filled, or -1 where a head held NaN, an infinity
    or a value beyond 1e12.

    Args:
        model: exported, with heads as outputs, of any precision.
        config: thresholds and switches. ``flip`` follows the graph; ``skeleton`` defaults to the graph's.

    Raises:
        InputError: people as outputs already, a limit of people, or a skeleton with other joints.
    """
    metadata = metadata_of(model)
    if metadata.outputs == "people":
        raise InputError("The graph decodes inside already.", hint="Export the checkpoint again with other settings.")
    settings = _settings(metadata, config)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    heads = _wire_heads(made, metadata.head_names)
    skeleton = settings.skeleton or metadata.skeleton
    graph = made.graph
    for step in chain(flip=metadata.flip, refine=settings.refine):
        graph.node.append(_node(step, heads, settings, skeleton.num_joints))
    table = np.array([skeleton.flip_index, skeleton.grouping_order], np.int32)
    graph.initializer.append(numpy_helper.from_array(table, SKELETON_TENSOR))
    batch = _batch_of(model)
    del graph.output[:]
    graph.output.extend(_people_outputs(settings, skeleton.num_joints, batch, flip=metadata.flip))
    made.opset_import.append(helper.make_opsetid(DOMAIN, _OPSET))
    metadata.model_copy(update={"outputs": "people", "decode": settings}).write(made)
    onnx.checker.check_model(made)
    return made


def without_decode(model: onnx.ModelProto) -> onnx.ModelProto:
    """The heads graph of a float32 graph that decodes inside; its metadata says heads again.

    Raises:
        InputError: the graph is typed fp16 or int8.
    """
    metadata = metadata_of(model)
    if metadata.precision != "fp32":
        raise InputError(f"The graph is typed {metadata.precision} and decodes inside; its heads are no outputs again.")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    first = next(node for node in graph.node if node.domain == DOMAIN)
    heads = dict(zip(metadata.head_names, first.input, strict=False))
    for node in [node for node in graph.node if node.domain == DOMAIN]:
        graph.node.remove(node)
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == SKELETON_TENSOR))
    opsets = [(one.domain, one.version) for one in made.opset_import if one.domain != DOMAIN]
    del made.opset_import[:], graph.output[:]
    made.opset_import.extend(helper.make_opsetid(*one) for one in opsets)
    values = {value.name: value for value in graph.value_info}
    graph.output.extend(values[name] for name in heads)
    for name in heads:
        graph.value_info.remove(values[name])
    metadata.model_copy(update={"outputs": "heads", "decode": None}).write(made)
    onnx.checker.check_model(made)
    return made


def metadata_of(model: onnx.ModelProto) -> GraphMetadata:
    """What the graph says about itself."""
    return GraphMetadata.from_props({entry.key: entry.value for entry in model.metadata_props}, source="the graph")


def _settings(metadata: GraphMetadata, config: DecodeConfig) -> DecodeConfig:
    check_decode(config)
    own, joints = config.skeleton, metadata.skeleton.num_joints
    if own is not None and own.num_joints != joints:
        raise InputError(f"The skeleton {own.name} has {own.num_joints} joints, the graph {joints}.")
    skeleton = None if own == metadata.skeleton else own
    return config.model_copy(update={"flip": metadata.flip, "skeleton": skeleton})


def _node(step: Step, heads: dict[str, str], config: DecodeConfig, joints: int) -> onnx.NodeProto:
    inputs = [heads.get(name, name) for name in step.inputs]
    node = helper.make_node(step.op.name, inputs, list(step.outputs), name=f"decode/{step.op.name}", domain=DOMAIN)
    # What TensorRT's parser looks for; aot asks for the kernel that travels inside the plan.
    attributes: dict[str, Any] = {"plugin_namespace": DOMAIN, "plugin_version": VERSION, "aot": 1}
    attributes |= step.op.attribute_values(config, joints, 2 if config.flip else 1)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def _people_outputs(
    config: DecodeConfig, joints: int, batch: int | str, *, flip: bool
) -> Sequence[onnx.ValueInfoProto]:
    levels = 2 if flip else 1
    found = {}
    for step in chain(flip=flip, refine=config.refine):
        attributes = step.op.attribute_values(config, joints, levels)
        # Only the batch of what leaves depends on the inputs; the sizes of the maps do not matter here.
        inputs = [(batch, 0, 0, 0, 0)] * len(step.inputs)
        dims = step.op.dims(inputs, attributes)
        for name, buffer in zip(step.outputs, step.op.kernel.outputs, strict=True):
            if name in PEOPLE:
                found[name] = helper.make_tensor_value_info(name, _TYPES[buffer.dtype], buffer.shape(dims))
    return [found[name] for name in PEOPLE]


def _batch_of(model: onnx.ModelProto) -> int | str:
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    return str(dim.dim_param) if dim.HasField("dim_param") else int(dim.dim_value)


def _wire_heads(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, str]:
    """The tensor that the ops read for each head; float16 heads are not widened, if all of them are.

    The declarations of float32 heads move to ``value_info``, from where `without_decode` takes them.
    """
    casts = {name: _cast_of(model, name) for name in names}
    if not all(casts.values()):
        model.graph.value_info.extend(model.graph.output)
        return {name: name for name in names}
    graph, producers = model.graph, _producers(model)
    heads = {}
    for name in names:
        cast, node = casts[name], producers[name]
        assert cast is not None
        if node == cast:
            heads[name] = cast.input[0]
        else:
            heads[name] = name
            node.input[0] = cast.input[0]
    read = {name for node in graph.node for name in node.input}
    unread = [node for node in graph.node if node in casts.values() and node.output[0] not in read]
    for node in unread:
        graph.node.remove(node)
    return heads


def _cast_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The cast that widens a head: the node that makes it, or the one before a slice of a doubled batch."""
    producers = _producers(model)
    node = producers[name]
    if node.op_type == "Slice":
        before = producers.get(node.input[0])
        node = node if before is None else before
    widens = node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
    return node if widens else None


def _producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}
