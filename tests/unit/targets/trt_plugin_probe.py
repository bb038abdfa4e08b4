"""Runs in a process of its own, with one release of the bindings on its path: drives the ops as TensorRT's parser and
builder do, on a registry and expressions made here. Prints what the ops ask TensorRT to launch, as JSON.

Arguments: ``quick`` or ``v3``; the folder with the PTX.
"""

from __future__ import annotations

import json
import operator
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_bindings as trt

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import kernel_files
from hhrnet_deploy.decode.launch_table import Dims, scalar_values
from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS, VERSION, PluginOp

OPERATIONS = {"SUM": operator.add, "PROD": operator.mul, "FLOOR_DIV": operator.floordiv}
CONFIGS = (DecodeConfig(), DecodeConfig(detection_threshold=0.3, tag_threshold=0.7, max_people=7, project=False))
NAMES = ("images", "coarse_height", "coarse_width", "fine_height", "fine_width")


class Expression:
    """A dimension known by name, a constant, or what is made of them; `value` needs the sizes."""

    def __init__(self, value: Callable[[dict[str, int]], int], constant: bool = False) -> None:
        self.value, self._constant = value, constant

    def is_constant(self) -> bool:
        return self._constant

    def get_constant_value(self) -> int:
        return self.value({})


class Builder:
    def constant(self, value: int) -> Expression:
        assert type(value) is int, type(value)
        return Expression(lambda _: value, constant=True)

    def operation(self, kind: Any, first: Expression, second: Expression) -> Expression:
        apply = OPERATIONS[kind.name]
        constant = first.is_constant() and second.is_constant()
        return Expression(lambda sizes: apply(first.value(sizes), second.value(sizes)), constant)


class Registry:
    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        key = (creator.name, creator.plugin_version, namespace)
        assert key not in self.creators, key
        assert creator.plugin_namespace == namespace
        self.creators[key] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


class SymbolicDims(list[Any]):
    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


REGISTRY, BUILDER = Registry(), Builder()


def stand_in() -> None:
    """What needs TensorRT's library is made here: the registry, and dimensions as expressions."""
    sys.modules["tensorrt"] = trt
    trt.IDimensionExpr, trt.DimsExprs = Expression, SymbolicDims
    trt.get_plugin_registry = lambda: REGISTRY
    kernel_files._find = lambda name: Path(sys.argv[2]) / name


def symbols(op: PluginOp, attributes: dict[str, int]) -> list[list[Any]]:
    """The shapes of the inputs as the network has them: batch, heights and widths symbolic, all else constant."""
    sizes = _sizes(op, attributes)
    concrete = _shapes(op, sizes, {name: 1000 + 37 * i for i, name in enumerate(NAMES)})
    shifted = [
        _shapes(op, sizes, {other: 1000 + 37 * i + 320 * (other == name) for i, other in enumerate(NAMES)})
        for name in NAMES
    ]
    found = []
    for number, shape in enumerate(concrete):
        row: list[Any] = []
        for axis, size in enumerate(shape):
            moves = [name for name, other in zip(NAMES, shifted, strict=True) if other[number][axis] != size]
            row.append(Expression(_dimension(op, sizes, number, axis)) if moves else BUILDER.constant(int(size)))
        found.append(row)
    return found


def _dimension(op: PluginOp, sizes: dict[str, int], number: int, axis: int) -> Callable[[dict[str, int]], int]:
    return lambda values: int(_shapes(op, sizes, values)[number][axis])


def levels(op: PluginOp, attributes: dict[str, int]) -> int:
    return attributes.get("dims", 2 if op.name == "aggregate_flip" else 1)


def _shapes(op: PluginOp, sizes: dict[str, int], values: dict[str, int]) -> list[tuple[int, ...]]:
    images, *sides = (values[name] for name in NAMES)
    factor = sizes.get("factor", 2)
    dims = Dims(images, sizes["joints"], sizes["dims"], *sides, sides[2] * factor, sides[3] * factor, sizes["M"])
    return [one.shape(dims) for one in op.kernel.inputs]


def pointer_types(op: PluginOp, half: bool) -> tuple[list[Any], list[Any]]:
    heads = trt.float16 if half else trt.float32
    types = {"float32": trt.float32, "int32": trt.int32, "heads": heads}
    return [types[one.dtype] for one in op.kernel.inputs], [types[one.dtype] for one in op.kernel.outputs]


def node_fields(op: PluginOp, creator: Any, attributes: dict[str, int]) -> Any:
    """As onnx-tensorrt stores INT attributes: an int32 array of one element, in the order of the creator's fields."""
    names = [one.name for one in creator.field_names]
    assert names == list(op.attributes), names
    kind = trt.PluginFieldType.INT32
    assert all(one.type == kind for one in creator.field_names)
    values = {name: np.array([attributes[name]], np.int32) for name in names}
    made = trt.PluginFieldCollection([trt.PluginField(name, values[name], kind) for name in names])
    KEPT.append(values)
    return made


KEPT: list[Any] = []


def descriptions(types: list[Any]) -> list[Any]:
    made = []
    for kind in types:
        one = trt.DynamicPluginTensorDesc()
        one.desc.type, one.desc.format = kind, trt.TensorFormat.LINEAR
        made.append(one)
    return made


def drive_quick(op: PluginOp, attributes: dict[str, int], half: bool) -> dict[str, Any]:
    """As the builder drives a quick plugin with an ahead-of-time kernel."""
    creator = REGISTRY.get_creator(op.name, VERSION, DOMAIN)
    strict = trt.QuickPluginCreationRequest.STRICT_AOT
    fields = node_fields(op, creator, attributes)
    made = creator.create_plugin(op.name, DOMAIN, fields, trt.TensorRTPhase.BUILD, strict)
    inputs, outputs = pointer_types(op, half)
    given = symbols(op, attributes)
    assert made.get_num_outputs() == len(outputs)
    assert list(made.get_output_data_types(inputs, [len(one) for one in given])) == outputs
    shapes = made.get_output_shapes(given, [], BUILDER)
    described = descriptions([*inputs, *outputs])
    combinations = made.get_supported_format_combinations(described, len(inputs))
    assert [one.type for one in combinations] == [*inputs, *outputs]
    assert {one.format for one in combinations} == {trt.TensorFormat.LINEAR}
    made.configure_plugin(described[: len(inputs)], described[len(inputs) :])
    assert made.get_valid_tactics() == []
    assert [made.get_aliased_input(number) for number in range(len(outputs))] == [-1] * len(outputs)
    made.set_tactic(0)
    launch, extras = SimpleNamespace(), {}
    setter = type("Setter", (), {"__setitem__": lambda self, place, value: extras.__setitem__(place, value)})()
    made.get_launch_params(None, described, len(inputs), launch, setter, BUILDER)
    both = [one.desc for one in described]
    name, ptx = made.get_kernel(both[: len(inputs)], both[len(inputs) :])
    assert setter.nbSymExprs == len(extras) == len(op.kernel.scalars)
    assert launch.shared_mem.value({}) == 0
    grid = [launch.grid_x, launch.grid_y, launch.grid_z]
    block = [getattr(launch, f"block_{axis}").value({}) for axis in "xyz"]
    copy = made.clone()
    assert copy.get_kernel(both[: len(inputs)], both[len(inputs) :]) == (name, ptx)
    scalars = [extras[place] for place in range(len(extras))]
    values = check_values(op, attributes, half, [shapes, grid, scalars])
    return {"kernel": name, "block": block, "ptx": ptx.decode()[:20], "bytes": len(ptx), **values}


def drive_v3(op: PluginOp, attributes: dict[str, int], half: bool) -> dict[str, Any]:
    """As the builder and the runtime drive an IPluginV3, serialised between the two."""
    from hhrnet_deploy.targets import trt_plugin_v3

    launched: list[Any] = []
    launcher = SimpleNamespace(launch=lambda *arguments: launched.append(arguments))
    trt_plugin_v3.kernel_launcher = lambda: launcher
    creator = REGISTRY.get_creator(op.name, VERSION, DOMAIN)
    assert isinstance(creator, trt.IPluginCreatorV3One)
    built = creator.create_plugin("node 1", node_fields(op, creator, attributes), trt.TensorRTPhase.BUILD)
    for base in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime"):
        assert isinstance(built, getattr(trt, base)), base
    for capability in ("CORE", "BUILD", "RUNTIME"):
        assert built.get_capability_interface(getattr(trt.PluginCapabilityType, capability)) is built
    inputs, outputs = pointer_types(op, half)
    assert built.num_outputs == len(outputs) == len(built.get_output_data_types(inputs))
    assert built.get_output_data_types(inputs) == outputs
    shapes = built.get_output_shapes(symbols(op, attributes), [], BUILDER)
    described = descriptions([*inputs, *outputs])
    places = range(len(described))
    assert all(built.supports_format_combination(place, described, len(inputs)) for place in places)
    described[-1].desc.format = trt.TensorFormat.CHW32
    assert not built.supports_format_combination(len(described) - 1, described, len(inputs))
    assert built.get_workspace_size(inputs, outputs) == 0
    opened = creator.create_plugin("node 1", built.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
    running = opened.clone().attach_to_context(None)
    values = check_values(op, attributes, half, [shapes])
    concrete = _shapes(op, _sizes(op, attributes), {name: 64 + 32 * i for i, name in enumerate(NAMES)})
    input_descs = [trt.PluginTensorDesc() for _ in inputs]
    for one, kind, shape in zip(input_descs, inputs, concrete, strict=True):
        one.type, one.dims = kind, trt.Dims(shape)
    addresses = list(range(1000, 1000 + len(inputs))), list(range(2000, 2000 + len(outputs)))
    running.enqueue(input_descs, None, *addresses, 0, 77)
    [(kernel, grid, arguments, stream)] = launched
    assert stream == 77
    expected = [*addresses[0], *op.scalars(concrete, attributes, half=half), *addresses[1]]
    assert [int(one) for one in arguments] == [int(one) for one in expected], (arguments, expected)
    assert grid == op.grid(concrete, attributes)
    return {"kernel": kernel.name, **values}


def _sizes(op: PluginOp, attributes: dict[str, int]) -> dict[str, int]:
    return {
        "joints": attributes["joints"],
        "dims": levels(op, attributes),
        "M": attributes.get("max_people", 0),
        "factor": 1 + attributes.get("project", 1),
    }


def check_values(op: PluginOp, attributes: dict[str, int], half: bool, made: list[Any]) -> dict[str, Any]:
    """Expressions on random sizes against the ints that the launch table gives to any other launcher."""
    rng = random.Random(1)
    joints, dimensions = attributes["joints"], levels(op, attributes)
    config = next(one for one in CONFIGS if op.attribute_values(one, joints, dimensions) == attributes)
    for _ in range(20):
        height, width = (32 * rng.randint(1, 64) for _ in range(2))
        images = rng.randint(1, 64)
        sizes = dict(zip(NAMES, (images, height // 4, width // 4, height // 2, width // 2), strict=True))
        grid = (height, width) if config.project else (height // 2, width // 2)
        dims = Dims(images, joints, dimensions, *list(sizes.values())[1:], *grid, config.max_people)
        expected: list[Any] = [[list(one.shape(dims)) for one in op.kernel.outputs]]
        values = scalar_values(dims, config, half=half)
        expected += [list(op.kernel.grid(dims)), [values[name] for name in op.kernel.scalars]]
        for what, wanted in zip(made, expected, strict=False):
            assert _evaluated(what, sizes) == wanted, (op.name, sizes)
    return {"symbolic": sum(not one.is_constant() for shape in made[0] for one in shape)}


def _evaluated(what: Any, sizes: dict[str, int]) -> Any:
    return [_evaluated(one, sizes) for one in what] if isinstance(what, list) else what.value(sizes)


def main() -> None:
    stand_in()
    if sys.argv[1] == "quick":
        from hhrnet_deploy.targets.trt_plugins import plugin_kind, register_plugins

        assert (plugin_kind(trt), register_plugins(trt), register_plugins(trt)) == ("embedded",) * 3
        tensors: Any = sys.modules["tensorrt.plugin._tensor"]
        tensors.SymExprImpl = lambda expr: expr._expr  # the real one takes nothing but expressions of TensorRT's own
        drive = drive_quick
    else:
        from hhrnet_deploy.targets.trt_plugin_v3 import register

        assert register(trt) is register(trt)
        drive = drive_v3
    assert len(REGISTRY.creators) == len(OPS)
    found = {}
    for op in OPS.values():
        for joints, config, half, flip in ((17, CONFIGS[0], False, 2), (14, CONFIGS[1], True, 1)):
            dims = {"aggregate": 1, "aggregate_flip": 2}.get(op.name, flip)
            attributes = op.attribute_values(config, joints, dims)
            found[op.name] = drive(op, attributes, half and "half" in op.kernel.scalars)
    print(json.dumps({"version": trt.__version__, "ops": found}))


if __name__ == "__main__":
    main()
