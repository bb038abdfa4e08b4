"""The ops as ``IPluginV3``, for TensorRT 10 before 10.9 (JetPack 6): such a plan opens where Python registers them.

Same ops, tensors and attributes as the quick plugins, hence the same ONNX graph. Scratch is among the outputs, so no
workspace is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hhrnet_deploy.decode.launch_table import Buffer
from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS, VERSION, PluginOp
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.targets.trt_plugin_launch import kernel_launcher

# Plugins are never freed: the bindings of 10.3 crash when one is. They are a few hundred bytes, five per context.
_ALIVE: list[Any] = []


@cache
def register(api: Any) -> tuple[Any, ...]:
    """Register a creator per op with the module ``tensorrt``; returns them, and keeps them for the whole process."""
    creators = tuple(_creator_class(api)(op) for op in OPS.values())
    for creator in creators:
        api.get_plugin_registry().register_creator(creator, DOMAIN)
    return creators


@dataclass(frozen=True)
class Symbol:
    """A dimension as TensorRT's expression, with the operators that the launch table uses."""

    api: Any
    maker: Any
    expression: Any

    def __add__(self, other: Symbol | int) -> Symbol:
        return self._of(self.api.DimensionOperation.SUM, other)

    def __mul__(self, other: Symbol | int) -> Symbol:
        return self._of(self.api.DimensionOperation.PROD, other)

    def __floordiv__(self, other: Symbol | int) -> Symbol:
        return self._of(self.api.DimensionOperation.FLOOR_DIV, other)

    def _of(self, operation: Any, other: Symbol | int) -> Symbol:
        second = self.maker.constant(other) if isinstance(other, int) else other.expression
        return Symbol(self.api, self.maker, self.maker.operation(operation, self.expression, second))


@cache
def plugin_class(api: Any) -> Any:
    """The plugin, a subclass of that module's interfaces."""

    bases: Any = (api.IPluginV3, api.IPluginV3OneCore, api.IPluginV3OneBuild, api.IPluginV3OneRuntime)

    class DecodePlugin(*bases):  # type: ignore[misc]
        def __init__(self, op: PluginOp, attributes: Mapping[str, int]) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_namespace, self.plugin_version = op.name, DOMAIN, VERSION
            self.num_outputs = len(op.kernel.outputs)
            self.op, self.attributes = op, dict(attributes)
            self.fields, self._kept = _fields(api, self.attributes)
            _ALIVE.append(self)

        def get_capability_interface(self, type: Any) -> Any:  # noqa: A002
            return self

        def clone(self) -> Any:
            return DecodePlugin(self.op, self.attributes)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return self.fields

        def get_output_data_types(self, input_types: Any) -> list[Any]:
            return [_type_of(api, one) for one in self.op.kernel.outputs]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, exprBuilder: Any) -> list[Any]:  # noqa: N803
            shapes = [[Symbol(api, exprBuilder, one[i]) for i in range(len(one))] for one in inputs]
            found = self.op.output_shapes(shapes, self.attributes)
            return [_expressions(api, exprBuilder, shape) for shape in found]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            found = in_out[pos].desc
            buffer = (*self.op.kernel.inputs, *self.op.kernel.outputs)[pos]
            if buffer.dtype == "heads":
                known = found.type in (api.float32, api.float16) and found.type == in_out[0].desc.type
            else:
                known = found.type == _type_of(api, buffer)
            return bool(known and found.format == api.TensorFormat.LINEAR)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            pass

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return 0

        def set_tactic(self, tactic: int) -> None:
            pass

        def enqueue(self, input_desc: Any, output_desc: Any, *addresses: Any) -> None:
            inputs, outputs, _workspace, stream = addresses
            shapes = [tuple(one.dims) for one in input_desc]
            half = input_desc[0].type == api.float16
            scalars = self.op.scalars(shapes, self.attributes, half=half)
            arguments = [*map(int, inputs), *scalars, *map(int, outputs)]
            grid = self.op.grid(shapes, self.attributes)
            kernel_launcher().launch(self.op.kernel, grid, arguments, int(stream))

    return DecodePlugin


@cache
def _creator_class(api: Any) -> Any:
    class DecodePluginCreator(api.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, op: PluginOp) -> None:
            api.IPluginCreatorV3One.__init__(self)
            self.op = op
            self.name, self.plugin_namespace, self.plugin_version = op.name, DOMAIN, VERSION
            self.field_names, self._kept = _fields(api, dict.fromkeys(op.attributes))

        def create_plugin(self, name: str, fc: Any, phase: Any) -> Any:
            return plugin_class(api)(self.op, _read(self.op, fc))

    return DecodePluginCreator


def _fields(api: Any, values: Mapping[str, int | None]) -> tuple[Any, list[Any]]:
    """Attributes as TensorRT stores them, and their arrays, which have to live as long; None for a list of names."""
    kept = [np.array([] if value is None else [value], np.int32) for value in values.values()]
    kind = api.PluginFieldType.INT32
    made = [api.PluginField(name, array, kind) for name, array in zip(values, kept, strict=True)]
    return api.PluginFieldCollection(made), kept


def _read(op: PluginOp, fields: Any) -> dict[str, int]:
    found = {one.name: int(np.asarray(one.data).reshape(-1)[0]) for one in fields if one.name in op.attributes}
    missing = [name for name in op.attributes if name not in found]
    if missing:
        raise HHRNetError(
            f"The op {DOMAIN}.{op.name} lacks the attributes {', '.join(missing)}.",
            hint="Export the graph again with --decode plugin.",
        )
    return {name: found[name] for name in op.attributes}


def _type_of(api: Any, buffer: Buffer) -> Any:
    return {"float32": api.float32, "int32": api.int32}[buffer.dtype]


def _expressions(api: Any, maker: Any, shape: tuple[Any, ...]) -> Any:
    made = api.DimsExprs(len(shape))
    for place, size in enumerate(shape):
        made[place] = maker.constant(size) if isinstance(size, int) else size.expression
    return made
