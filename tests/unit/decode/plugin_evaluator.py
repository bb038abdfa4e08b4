"""Runs the decode ops of an ONNX graph node by node, on the kernels' shells compiled for the host.

Every node's outputs are sized and its kernel is called as its attributes and the shapes of its inputs say, and nothing
else: buffers are filled with garbage first.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

import hhrnet_deploy.decode
from hhrnet_deploy.data.synth_cache import cache_folder
from hhrnet_deploy.decode.launch_table import KERNELS, Kernel
from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS, PluginOp

HERE = Path(__file__).parent
CSRC = Path(hhrnet_deploy.decode.__file__).parent / "csrc"
C_TYPES = {"float32": "float*", "float64": "double*", "int32": "int*", "uint8": "uint8_t*", "heads": "void*"}
GUARD = 256  # bytes around every output
DTYPES = {"float32": np.float32, "int32": np.int32}

Arrays = dict[str, npt.NDArray[Any]]


def _case(number: int, kernel: Kernel) -> str:
    kinds = {one.name: C_TYPES[one.dtype] for one in (*kernel.inputs, *kernel.outputs)}
    arguments = [
        f"({kinds[name]})places[{i}]" if name in kinds else f"*(int*)places[{i}]"
        for i, name in enumerate(kernel.arguments)
    ]
    return f"case {number}: launch({{x, y, z}}, threads, [&] {{ {kernel.name}({', '.join(arguments)}); }}); break;"


def _program() -> str:
    cases = "\n".join(_case(number, kernel) for number, kernel in enumerate(KERNELS.values()))
    return (
        '#include "cuda_on_host.h"\n#include "kernels.cu"\n'
        'extern "C" void run(int kernel, unsigned x, unsigned y, unsigned z, int threads, void** places) {\n'
        f"switch (kernel) {{\n{cases}\n}}\n}}\n"
    )


class HostKernels:
    """The shells of all kernels, blocks of several threads."""

    def __init__(self, library: Path, threads: int = 4) -> None:
        self._library = ctypes.CDLL(str(library))
        self._threads = threads

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        keep = [
            one.ctypes.data_as(ctypes.c_void_p) if isinstance(one, np.ndarray) else ctypes.byref(ctypes.c_int32(one))
            for one in arguments
        ]
        places = (ctypes.c_void_p * len(keep))(*(ctypes.cast(one, ctypes.c_void_p) for one in keep))
        number = list(KERNELS).index(kernel.name)
        self._library.run(number, *map(ctypes.c_uint, grid), self._threads, places)


def host_kernels() -> HostKernels:
    """Compiled once per change of the sources."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    program = _program()
    sources = [path for path in sorted(CSRC.iterdir()) if path.suffix in {".h", ".cu"}]
    host = [HERE / "native" / name for name in ("cuda_on_host.h", "together.h")]
    texts = [path.read_bytes() for path in (*sources, *host)]
    digest = hashlib.sha256(program.encode() + b"".join(texts)).hexdigest()[:16]
    library = cache_folder() / "host-kernels" / f"{digest}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = library.with_name(f".{digest}.{os.getpid()}")
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", "-x", "c++", "-"]
        paths = [f"-I{CSRC}", f"-I{HERE / 'native'}", "-o", str(temporary)]
        subprocess.run([compiler, *flags, *paths], input=program.encode(), check=True)
        temporary.rename(library)
    return HostKernels(library)


def evaluate(model: onnx.ModelProto, given: Arrays, kernels: HostKernels) -> Arrays:
    """The outputs of a graph whose nodes of domain ``hhrnet`` get ``given`` beside what they make themselves."""
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer} | given
    for node in model.graph.node:
        if node.domain == DOMAIN:
            values |= _run(node, values, kernels)
    return {one.name: values[one.name] for one in model.graph.output}


def _run(node: onnx.NodeProto, values: Arrays, kernels: HostKernels) -> Arrays:
    op = OPS[node.op_type]
    attributes = {one.name: one.i for one in node.attribute if one.name in op.attributes}
    inputs = [np.ascontiguousarray(values[name]) for name in node.input]
    return dict(zip(node.output, run_op(op, inputs, attributes, kernels), strict=True))


def run_op(
    op: PluginOp, inputs: list[npt.NDArray[Any]], attributes: dict[str, int], kernels: HostKernels
) -> list[npt.NDArray[Any]]:
    """The outputs of one op; it may write neither into its inputs nor beside its outputs."""
    shapes, before = [one.shape for one in inputs], [one.tobytes() for one in inputs]
    sizes = op.output_shapes(shapes, attributes)
    guarded = [np.full(math.prod(shape) * 4 + 2 * GUARD, 0x5B, np.uint8) for shape in sizes]
    outputs = [
        whole[GUARD:-GUARD].view(DTYPES[buffer.dtype]).reshape(shape)
        for whole, shape, buffer in zip(guarded, sizes, op.kernel.outputs, strict=True)
    ]
    scalars = op.scalars(shapes, attributes, half=inputs[0].dtype == np.float16)
    kernels.launch(op.kernel, op.grid(shapes, attributes), [*inputs, *scalars, *outputs])
    assert [one.tobytes() for one in inputs] == before, op.name
    for whole in guarded:
        assert (whole[:GUARD] == 0x5B).all(), op.name
        assert (whole[-GUARD:] == 0x5B).all(), op.name
    return outputs
