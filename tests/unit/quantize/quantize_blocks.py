"""Graphs of HRNet's blocks built in code, and figures that belong to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hhrnet_deploy.quantize.histogram import Histogram
from hhrnet_deploy.quantize.statistics import Header, Statistics, TensorStatistics
from hhrnet_deploy.quantize.topology import Topology


class Block:
    """A small float32 graph in the shape of HRNet's blocks; ends in the two heads."""

    def __init__(self, channels: int = 3, size: int | None = None) -> None:
        self.rng = np.random.default_rng(7)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.channels = {"image": channels}
        self.size = size

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, name: str, source: str, outputs: int, *, kernel: int = 1, stride: int = 1) -> str:
        weight = self.rng.normal(size=(outputs, self.channels[source], kernel, kernel)).astype(np.float32)
        # Channels of very different sizes: one scale for all would show.
        weight *= (1.5 ** np.arange(outputs, dtype=np.float32) / 2.0)[:, None, None, None]
        inputs = [source, self.constant(f"{name}.w", (weight / np.sqrt(weight[0].size)).astype(np.float32))]
        inputs.append(self.constant(f"{name}.b", self.rng.normal(size=outputs).astype(np.float32)))
        pads = [kernel // 2] * 4
        self.nodes.append(
            helper.make_node(
                "Conv", inputs, [name], name=name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads
            )
        )
        self.channels[name] = outputs
        return name

    def op(self, kind: str, name: str, *sources: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(sources), [name], name=name, **attributes))
        self.channels[name] = self.channels[sources[0]]
        return name

    def relu(self, name: str, source: str) -> str:
        return self.op("Relu", name, source)

    def add(self, name: str, left: str, right: str) -> str:
        return self.op("Add", name, left, right)

    def up(self, name: str, source: str) -> str:
        scales = self.constant(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
        attributes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return self.op("Resize", name, source, "", scales, **attributes)

    def deconv(self, name: str, source: str, outputs: int) -> str:
        weight = self.rng.normal(size=(self.channels[source], outputs, 4, 4)).astype(np.float32) / 8
        inputs = [source, self.constant(f"{name}.w", weight)]
        inputs.append(self.constant(f"{name}.b", self.rng.normal(size=outputs).astype(np.float32)))
        self.nodes.append(
            helper.make_node(
                "ConvTranspose", inputs, [name], name=name, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]
            )
        )
        self.channels[name] = outputs
        return name

    def concat(self, name: str, left: str, right: str) -> str:
        self.nodes.append(helper.make_node("Concat", [left, right], [name], name=name, axis=1))
        self.channels[name] = self.channels[left] + self.channels[right]
        return name

    def model(self, coarse: str, fine: str) -> onnx.ModelProto:
        sides: list[Any] = [self.size, self.size] if self.size else ["h", "w"]
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", self.channels["image"], *sides])]
        outputs = [self._output(name, {coarse: 1, fine: 2}[name] * (self.size or 0)) for name in (coarse, fine)]
        graph = helper.make_graph(self.nodes, "block", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model

    def _output(self, name: str, side: int) -> Any:
        sides: list[Any] = [side, side] if side else [f"{name}h", f"{name}w"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", self.channels[name], *sides])


def run(model: onnx.ModelProto, image: Any) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Every Q/DQ as it stands: fused kernels round differently.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: image}))


def figures(topology: Topology, image: Any) -> Statistics:
    """Statistics of one image, every tensor watched in full."""
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    values = dict(zip(names, run(model, image), strict=True)) | {"image": image}
    header = Header(network=topology.digest(), calibration="0" * 64, set_name="one", short_side=64, images=1, done=1)
    tensors = {}
    for name, value in values.items():
        item = TensorStatistics(min(0.0, float(value.min())), max(0.0, float(value.max())), Histogram())
        item.histogram.add(value)
        tensors[topology.key(name)] = item
    return Statistics(header, tensors)


def network_block(size: int | None = None) -> onnx.ModelProto:
    """Every kind of block: stem, residual, two exchanges, concatenation, deconvolution, residual, heads."""
    block = Block(size=size)
    stem = block.relu("stem_relu", block.conv("stem", "image", 4, kernel=3))
    inner = block.relu("inner_relu", block.conv("inner", stem, 4, kernel=3))
    residual = block.relu("residual_relu", block.add("residual", block.conv("outer", inner, 4, kernel=3), stem))
    low = block.relu("low_relu", block.conv("low", residual, 6, kernel=3, stride=2))
    raised = block.up("raised", block.conv("to_high", low, 4))
    mixed = block.relu("mixed", block.add("fused", residual, raised))
    last_raised = block.up("last_raised", block.conv("last_to_high", low, 4))
    end = block.relu("end", block.add("block_sum", block.conv("block_conv", mixed, 4, kernel=3), mixed))
    features = block.relu("features", block.add("last_fused", end, last_raised))
    coarse = block.conv("coarse", features, 2)
    double = block.relu("double_relu", block.deconv("double", block.concat("joined", features, coarse), 4))
    last_inner = block.relu("last_inner_relu", block.conv("last_inner", double, 4, kernel=3))
    last = block.relu("last_relu", block.add("last", block.conv("last_outer", last_inner, 4, kernel=3), double))
    return block.model(coarse, block.conv("fine", last, 1))
