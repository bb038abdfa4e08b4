"""The ops as quick plugins of TensorRT 10.9 and later, with ahead-of-time kernels: their PTX travels inside the plan.

``tensorrt.plugin`` reads signatures, so each op's functions get theirs from the launch table. Attributes are declared
as int32 arrays of one element: releases before 11 turn a scalar attribute into an ``int`` in a way that NumPy 2.4 no
longer allows, and TensorRT's parser stores an ONNX ``INT`` as exactly that array.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import GenericAlias
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.decode.kernel_files import ptx_file
from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS, PluginOp

_AUTOTUNE_NAMES = {"float32": "FP32", "int32": "INT32"}
_ORDINARY = inspect.Parameter.POSITIONAL_OR_KEYWORD


def register(api: Any) -> None:
    """Register every op with the module ``tensorrt``; those that are there already are left alone."""
    plugin = _plugin_module()
    for op in OPS.values():
        ptx_file(op.name)  # an installation without kernels says so before anything is registered
    for op in OPS.values():
        if not hasattr(plugin.op, DOMAIN) or not hasattr(getattr(plugin.op, DOMAIN), op.name):
            _register(api, plugin, op)


def _plugin_module() -> Any:
    with _stdout_as_stderr():  # it prints that it is experimental, where --json has its document
        try:
            return importlib.import_module("tensorrt.plugin")
        except ModuleNotFoundError:  # some wheels leave it in the package that the bindings come in
            return importlib.import_module("tensorrt_bindings.plugin")


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """What C++ and Python write to file descriptor 1 goes to 2."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _register(api: Any, plugin: Any, op: PluginOp) -> None:
    identity = f"{DOMAIN}::{op.name}"
    several = GenericAlias(tuple, (plugin.TensorDesc,) * len(op.kernel.outputs))
    described = _with_signature(_describe(api, plugin, op), op, plugin, (), several)
    plugin.register(identity)(described)
    plugin.autotune(identity)(_with_signature(_autotune(api, plugin, op), op, plugin, ("outputs",), None, bare=True))
    made = GenericAlias(tuple, (str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymIntExprs))
    plugin.aot_impl(identity)(_with_signature(_compiled(api, plugin, op), op, plugin, ("outputs", "tactic"), made))


def _with_signature(
    function: Callable[..., Any], op: PluginOp, plugin: Any, last: tuple[str, ...], returns: Any, *, bare: bool = False
) -> Callable[..., Any]:
    """Give the function the parameters that ``tensorrt.plugin`` expects: inputs, attributes unless bare, ``last``."""
    tensors = [inspect.Parameter(one.name, _ORDINARY, annotation=plugin.TensorDesc) for one in op.kernel.inputs]
    settings = [inspect.Parameter(name, _ORDINARY, annotation=npt.NDArray[np.int32]) for name in op.attributes]
    others = [inspect.Parameter(name, _ORDINARY) for name in last]
    parameters = [*tensors, *([] if bare else settings), *others]
    signature = inspect.Signature(parameters)
    function.__signature__ = (  # type: ignore[attr-defined]
        signature if returns is None else signature.replace(return_annotation=returns)
    )
    return function


def _describe(api: Any, plugin: Any, op: PluginOp) -> Callable[..., Any]:
    """Types and symbolic shapes of the outputs."""
    types = {"float32": api.float32, "int32": api.int32}

    def describe(*inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        shapes = op.output_shapes(
            [one.shape_expr for one in inputs], _ints(op, [attributes[name] for name in op.attributes])
        )
        return tuple(
            plugin.from_shape_expr(shape, types[buffer.dtype])
            for shape, buffer in zip(shapes, op.kernel.outputs, strict=True)
        )

    return describe


def _autotune(api: Any, plugin: Any, op: PluginOp) -> Callable[..., Any]:
    """The one combination of types: heads as the network has them, all else as the launch table says; linear."""
    heads = sum(one.dtype == "heads" for one in op.kernel.inputs)

    def autotune(*descriptions: Any) -> list[Any]:
        half = bool(heads) and descriptions[0].dtype == api.float16
        names = ["FP16" if half else "FP32"] * heads
        names += [_AUTOTUNE_NAMES[one.dtype] for one in (*op.kernel.inputs[heads:], *op.kernel.outputs)]
        return [plugin.AutoTuneCombination(", ".join(names), "LINEAR")]

    return autotune


def _compiled(api: Any, plugin: Any, op: PluginOp) -> Callable[..., Any]:
    """Kernel, PTX, grid and the scalars between input and output pointers."""
    count = len(op.kernel.inputs)

    def compiled(*arguments: Any) -> tuple[Any, ...]:
        inputs, attributes = arguments[:count], _ints(op, arguments[count:-2])
        shapes = [one.shape_expr for one in inputs]
        x, y, z = op.grid(shapes, attributes)
        launch = plugin.KernelLaunchParams(grid_x=x, grid_y=y, grid_z=z, block_x=op.block)
        half = inputs[0].dtype == api.float16
        scalars = [plugin.SymInt32(value) for value in op.scalars(shapes, attributes, half=half)]
        return op.name, ptx_file(op.name).read_bytes(), launch, plugin.SymIntExprs.from_tuple(tuple(scalars))

    return compiled


def _ints(op: PluginOp, values: Sequence[Any]) -> Mapping[str, int]:
    return {name: int(np.asarray(value).reshape(-1)[0]) for name, value in zip(op.attributes, values, strict=True)}
