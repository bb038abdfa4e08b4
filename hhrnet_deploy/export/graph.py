"""From a PyTorch module to the exported graph: the network traced, the conventions around it.

The network is traced on normalised images by PyTorch's TorchScript exporter: it keeps the nearest-neighbour
upsampling as Resize with constant scales, so a dynamic graph holds no shape arithmetic. Pixels, mirrored images and
names are added as nodes here.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.config import IMAGE_MEAN, IMAGE_STD
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.export.options import ExportOptions
from hhrnet_deploy.targets.graph import INPUT, OUTPUTS

if TYPE_CHECKING:
    import torch

_PIXELS, _HEADS = "preprocess/normalized", ("coarse", "fine")
_TRACED_SIDE = 128
_INT64 = np.iinfo(np.int64)


def build_graph(network: torch.nn.Module, options: ExportOptions) -> onnx.ModelProto:
    """The graph of ARCHITECTURE's contract, without metadata.

    Args:
        network: float32 (N, 3, H, W) normalised to (coarse, fine), in eval mode, on the CPU.
        options: the conventions.

    Raises:
        HHRNetError: the simplified graph is not a valid one.
    """
    model = _trace(network, options)
    _add_preprocessing(model, options)
    if options.flip:
        _add_mirrored_outputs(model, options)
    _name_weights(model)
    _declare(model, options, channels=_channels(model))
    if options.simplify:
        model = _simplified(model)
    _constants_to_initializers(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _trace(network: torch.nn.Module, options: ExportOptions) -> onnx.ModelProto:
    import torch

    height, width = options.size or (_TRACED_SIDE, _TRACED_SIDE)
    batch = (options.batch or 1) * (2 if options.flip else 1)
    example = torch.zeros(batch, 3, height, width)
    axes = {name: _dynamic_axes(name, options) for name in (_PIXELS, *_HEADS)}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # PyTorch announces the end of this exporter; the pinned versions have it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(Path(folder, "network.onnx")),
            dynamo=False,
            opset_version=options.opset,
            input_names=[_PIXELS],
            output_names=list(_HEADS),
            dynamic_axes=axes,
        )
        return onnx.load(str(Path(folder, "network.onnx")))


def _dynamic_axes(name: str, options: ExportOptions) -> dict[int, str]:
    batch = {0: f"{name}_batch"} if options.batch is None else {}
    sides = {2: f"{name}_height", 3: f"{name}_width"} if options.size is None else {}
    return batch | sides


def _add_preprocessing(model: onnx.ModelProto, options: ExportOptions) -> None:
    """Put the nodes from ``image`` to the network's input before it."""
    steps = _Chain(model, INPUT)
    if options.input == "uint8":
        # Cast first: TensorRT takes a uint8 input only when the first node on it is the Cast.
        steps.add("preprocess/cast", "Cast", to=TensorProto.FLOAT)
        steps.add("preprocess/transpose", "Transpose", perm=[0, 3, 1, 2])
        steps.add("preprocess/unit", "Div", _constant("preprocess/255", np.float32(255)))
        steps.add("preprocess/centred", "Sub", _constant("preprocess/mean", _per_channel(IMAGE_MEAN)))
        steps.add("preprocess/scaled", "Div", _constant("preprocess/std", _per_channel(IMAGE_STD)))
    if options.flip:
        straight = steps.last
        reverse = {"starts": [-1], "ends": [_INT64.min], "axes": [3], "steps": [-1]}
        steps.add("preprocess/mirrored", "Slice", *(_indices(f"preprocess/{k}", v) for k, v in reverse.items()))
        steps.nodes.append(
            helper.make_node("Concat", [straight, steps.last], ["preprocess/both"], name="preprocess/concat", axis=0)
        )
        steps.last = "preprocess/both"
    _rename(model, _PIXELS, steps.last)
    _prepend(model, steps.nodes)


def _add_mirrored_outputs(model: onnx.ModelProto, options: ExportOptions) -> None:
    """Slice the heads of the doubled batch: straight images first, mirrored ones second."""
    graph = model.graph
    batch = _constant_batch(model, options.batch) if options.batch else _batch_of_input(model)
    ends = _indices("heads/end", [_INT64.max])
    start = _indices("heads/start", [0])
    axes = _indices("heads/axis", [0])
    graph.initializer.extend([ends, start, axes])
    for name in _HEADS:
        both = f"heads/{name}_both"
        _rename(model, name, both)
        for output, first, last in ((name, start.name, batch), (f"{name}_flipped", batch, ends.name)):
            graph.node.append(helper.make_node("Slice", [both, first, last, axes.name], [output], f"heads/{output}"))


def _constant_batch(model: onnx.ModelProto, batch: int) -> str:
    value = _indices("heads/batch", [batch])
    model.graph.initializer.append(value)
    return str(value.name)


def _batch_of_input(model: onnx.ModelProto) -> str:
    model.graph.initializer.append(_indices("heads/first", [0]))
    model.graph.node.extend(
        [
            helper.make_node("Shape", [INPUT], ["heads/shape"], name="heads/shape"),
            helper.make_node("Gather", ["heads/shape", "heads/first"], ["heads/batch"], name="heads/batch", axis=0),
        ]
    )
    return "heads/batch"


class _Chain:
    """Nodes in a row, each reading the one before."""

    def __init__(self, model: onnx.ModelProto, first: str) -> None:
        self._model = model
        self.nodes: list[onnx.NodeProto] = []
        self.last = first

    def add(self, name: str, kind: str, *constants: onnx.TensorProto, **attributes: Any) -> None:
        self._model.graph.initializer.extend(constants)
        inputs = [self.last, *(constant.name for constant in constants)]
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_output"], name=name, **attributes))
        self.last = f"{name}_output"


def _constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _indices(name: str, values: Sequence[int]) -> onnx.TensorProto:
    return _constant(name, np.asarray(values, np.int64))


def _per_channel(values: tuple[float, ...]) -> Any:
    return np.asarray(values, np.float32).reshape(1, 3, 1, 1)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give a tensor another name wherever a node reads or writes it."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for number, name in enumerate(names):
                if name == old:
                    names[number] = new


def _prepend(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    network = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *network])


def _name_weights(model: onnx.ModelProto) -> None:
    """Call the folded weights after their node (``.../Conv.weight``) instead of ``onnx::Conv_1234``."""
    anonymous = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.startswith("onnx::")}
    for node in model.graph.node:
        for role, name in zip(("weight", "bias"), node.input[1:3], strict=False):
            tensor = anonymous.pop(name, None)
            if tensor is not None:
                tensor.name = f"{node.name.strip('/')}.{role}"
                _rename(model, name, tensor.name)


def _channels(model: onnx.ModelProto) -> tuple[int, int]:
    """Channels of (coarse, fine), from the traced outputs."""
    coarse, fine = (value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.output)
    return coarse, fine


def _declare(model: onnx.ModelProto, options: ExportOptions, channels: tuple[int, int]) -> None:
    """State the graph's input and outputs, dynamic dimensions by name."""
    graph = model.graph
    for values in (graph.input, graph.output, graph.value_info):
        del values[:]
    batch: int | str = options.batch or "batch"
    height, width = options.size or ("height", "width")
    if options.input == "uint8":
        graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, 3]))
    else:
        graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, height, width]))
    for number, name in enumerate(OUTPUTS if options.flip else OUTPUTS[:2]):
        stride = (4, 2)[number % 2]
        sides = [f"{side}_{stride}" if isinstance(side, str) else side // stride for side in (height, width)]
        shape = [batch, channels[number % 2], *sides]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified, valid = onnxsim.simplify(model)
    if not valid:
        raise HHRNetError("onnxsim made a graph that it could not validate.", hint="Export with --no-simplify.")
    return cast(onnx.ModelProto, simplified)


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    """Keep constants beside the weights, so that the first node is the one that reads the image."""
    graph = model.graph
    constants = [node for node in graph.node if node.op_type == "Constant"]
    for node in constants:
        value = node.attribute[0].t
        value.name = node.output[0]
        graph.initializer.append(value)
        graph.node.remove(node)
