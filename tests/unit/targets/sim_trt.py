"""A TensorRT without a card: a "plan" names an ONNX file, which ONNX Runtime runs inside the simulated stream.

Only what the runtime uses exists here; that the real bindings have the same names is what the contract tests hold.
"""

from __future__ import annotations

import ctypes
import json
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import decode_heads

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
ILLEGAL_ADDRESS, OK = 700, 0


class Severity:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...


class DataType:
    FLOAT, HALF, INT32, UINT8 = "FLOAT", "HALF", "INT32", "UINT8"


class TensorIOMode:
    INPUT, OUTPUT = "in", "out"


_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(uint8)": DataType.UINT8, "tensor(int32)": DataType.INT32}
_NUMPY = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8, DataType.INT32: np.int32}


def write_plan(path: Path, onnx: Path, profiles: list[Any] | None = None, decode: DecodeConfig | None = None) -> None:
    """A plan that `make_module` opens.

    Args:
        path: the file.
        onnx: what it runs; it returns heads.
        profiles: (smallest, largest) input shapes; None for a graph with one shape.
        decode: have the engine decode inside, as one with the plugin does.
    """
    settings = None if decode is None else decode.model_dump_json()
    path.write_text(json.dumps({"onnx": str(onnx), "profiles": profiles or [], "decode": settings}))


def _decoded(heads: list[Any], config: DecodeConfig) -> dict[str, Any]:
    """What a plugin returns: fixed places, and garbage in those that nobody takes."""
    found = decode_heads(tuple(heads), config=config)
    joints = heads[1].shape[1]
    places = config.max_people * joints
    out = {
        name: np.full((len(found), *shape), 9e9, np.float32) for name, shape in _people_shapes(joints, places).items()
    }
    for number, people in enumerate(found):
        out["keypoints"][number, : len(people)] = people.keypoints
        out["scores"][number, : len(people)] = people.scores
        out["joint_tags"][number, : len(people)] = people.tags
    return {**out, "count": np.array([len(people) for people in found], np.int32)}


def _people_shapes(joints: int, places: int) -> dict[str, tuple[int, ...]]:
    return {
        **{"keypoints": (places, joints, 3), "scores": (places,)},
        **{"joint_tags": (places, joints, 2), "person_tags": (places, 2)},
    }


def make_module(sim: ctypes.CDLL, *, rtx: bool = False) -> types.ModuleType:
    module = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = "11.4.0"  # type: ignore[attr-defined]

    class Runtime:
        alive = 0

        def __init__(self, logger: Any) -> None:
            self.logger = logger
            Runtime.alive += 1

        def __del__(self) -> None:
            Runtime.alive -= 1

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            try:
                return Engine(json.loads(data), self)
            except ValueError:
                self.logger.log(Severity.ERROR, "magic tag does not match")
                return None

    class Engine:
        alive = 0

        def __init__(self, plan: dict[str, Any], runtime: Runtime) -> None:
            Engine.alive += 1
            self.runtime = runtime
            self.session = onnxruntime.InferenceSession(plan["onnx"], providers=["CPUExecutionProvider"])
            self.decode = DecodeConfig.model_validate_json(plan["decode"]) if plan["decode"] else None
            self.inputs = [one.name for one in self.session.get_inputs()]
            sides = {one.name: tuple(one.shape) for one in (*self.session.get_inputs(), *self.session.get_outputs())}
            types = {one.name: one.type for one in (*self.session.get_inputs(), *self.session.get_outputs())}
            self.heads = [name for name in sides if name not in self.inputs]
            if self.decode is not None:
                joints = int(sides["fine"][1])
                people = {**_people_shapes(joints, self.decode.max_people * joints), "count": ()}
                sides = {self.inputs[0]: sides[self.inputs[0]], **{name: ("n", *one) for name, one in people.items()}}
                types |= dict.fromkeys(people, "tensor(float)") | {"count": "tensor(int32)"}
            self.tensors = {name: (side, types[name]) for name, side in sides.items()}
            self.profiles = plan["profiles"]
            self.num_io_tensors = len(self.tensors)
            self.num_optimization_profiles = max(1, len(self.profiles))

        def __del__(self) -> None:
            Engine.alive -= 1

        def get_tensor_name(self, number: int) -> str:
            return list(self.tensors)[number]

        def get_tensor_mode(self, name: str) -> str:
            return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> str:
            return _TYPES[self.tensors[name][1]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(side if isinstance(side, int) else -1 for side in self.tensors[name][0])

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            smallest, largest = self.profiles[profile]
            return [tuple(smallest), tuple(largest), tuple(largest)]

        def shape_for(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
            """Of a tensor, for an input of ``shape``."""
            if name in self.inputs:
                return shape
            if self.decode is not None:
                return shape[0], *self.get_tensor_shape(name)[1:]
            height, width = shape[1:3] if shape[3] == 3 else shape[2:4]
            down = 4 if name.startswith("coarse") else 2
            return shape[0], self.get_tensor_shape(name)[1], height // down, width // down

        def create_execution_context(self, settings: Any = None) -> Context | None:
            if module.refuse_contexts:  # type: ignore[attr-defined]
                self.runtime.logger.log(Severity.ERROR, "Requested amount of GPU memory is out of memory")
                return None
            return Context(self, settings)

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

    class Context:
        alive = 0

        def __init__(self, engine: Engine, settings: Any) -> None:
            Context.alive += 1
            if settings is not None:
                eager = DynamicShapesKernelSpecializationStrategy.EAGER
                assert settings.dynamic_shapes_kernel_specialization_strategy is eager, "an image has one result"
            self.engine, self.settings = engine, settings
            self.shape: tuple[int, ...] = engine.get_tensor_shape(engine.inputs[0])
            self.addresses: dict[str, int] = {}
            self.profile = 0

        def __del__(self) -> None:
            assert Engine.alive > 0, "the engine has to outlive its contexts"
            Context.alive -= 1

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            self.profile = profile
            return profile < self.engine.num_optimization_profiles

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            if self.engine.profiles:
                smallest, largest = self.engine.profiles[self.profile]
                if not all(low <= one <= high for low, one, high in zip(smallest, shape, largest, strict=True)):
                    return False
            self.shape = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            return []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.engine.shape_for(name, self.shape)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return name in self.engine.tensors

        def is_stream_capturable(self, stream: int) -> bool:
            return bool(module.capturable)

        def execute_async_v3(self, stream: int) -> bool:
            module.runs += 1  # type: ignore[attr-defined]
            engine, shape, addresses = self.engine, self.shape, dict(self.addresses)
            assert set(addresses) == set(engine.tensors), "an address is missing"

            def run(_: Any) -> int:
                arrays = {}
                for name, address in addresses.items():
                    dtype = _NUMPY[engine.get_tensor_dtype(name)]
                    sides = engine.shape_for(name, shape)
                    size = int(np.prod(sides)) * np.dtype(dtype).itemsize
                    if not sim.sim_inside(ctypes.c_void_p(address), ctypes.c_size_t(size)):
                        return ILLEGAL_ADDRESS
                    block = (ctypes.c_ubyte * size).from_address(address)
                    arrays[name] = np.frombuffer(block, dtype).reshape(sides)
                feed = {name: arrays[name].copy() for name in engine.inputs}
                made = engine.session.run(engine.heads, feed)
                named = dict(zip(engine.heads, made, strict=True))
                for name, value in (named if engine.decode is None else _decoded(made, engine.decode)).items():
                    arrays[name][...] = value
                return OK

            callback = CALLBACK(run)
            module.callbacks.append(callback)  # type: ignore[attr-defined]
            return bool(sim.sim_enqueue(ctypes.c_void_p(stream), callback, None) == 0)

    class RuntimeCache:
        def __init__(self) -> None:
            self.content = b""

        def deserialize(self, data: bytes) -> bool:
            if data != b"compiled":
                return False
            self.content = data
            module.cache_hits += 1  # type: ignore[attr-defined]
            return True

        def serialize(self) -> memoryview:
            return memoryview(b"compiled")

    class DynamicShapesKernelSpecializationStrategy(Enum):
        LAZY = 0
        EAGER = 1

    class RuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            self.cache = cache
            return True

    things = (ILogger, DataType, TensorIOMode, Runtime, Engine, Context)
    for thing in things:
        setattr(module, thing.__name__, thing)
    module.capturable = True  # type: ignore[attr-defined]
    module.runs = module.cache_hits = 0  # type: ignore[attr-defined]
    module.callbacks = []  # type: ignore[attr-defined]
    module.QuickPluginCreationRequest = object  # type: ignore[attr-defined]  # plans bring their kernels
    module.refuse_contexts = False  # type: ignore[attr-defined]
    return module
