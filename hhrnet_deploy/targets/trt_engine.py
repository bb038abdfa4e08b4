"""A plan that runs: deserialised, described, and enqueued by address. For TensorRT 10 and 11 and TensorRT-RTX.

Memory, streams and order are the caller's; nothing here knows of pycuda. Every object of TensorRT is gone when `close`
returns, the contexts before their engine and the engine before its runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import BundleError
from hhrnet_deploy.targets.cuda_errors import CudaError, failed
from hhrnet_deploy.targets.cuda_facts import HEADS, PEOPLE, EngineFacts, Nhw, Range, head_shape
from hhrnet_deploy.targets.cuda_ops import Infer
from hhrnet_deploy.targets.graph import INPUT
from hhrnet_deploy.targets.trt_callbacks import Log, make_logger
from hhrnet_deploy.targets.trt_kernel_cache import KernelCache
from hhrnet_deploy.targets.trt_plugins import plugin_kind, register_plugins


class PlanEngine:
    """One deserialised plan.

    Attributes:
        facts: its tensors and profiles.
    """

    def __init__(
        self,
        trt: Any,
        plan: Path,
        *,
        decode: DecodeConfig | None = None,
        host_code: bool = False,
        cache: KernelCache | None = None,
    ) -> None:
        """Deserialise ``plan``; the card's context has to be current.

        Args:
            trt: the module ``tensorrt`` or ``tensorrt_rtx``.
            plan: ``model.plan`` of a bundle.
            decode: the settings inside an engine whose outputs are people.
            host_code: a version-compatible plan brings a runtime of its own, which is code.
            cache: where TensorRT-RTX keeps the kernels that it compiles.

        Raises:
            BundleError: the plan is not one of this release for this card, or its tensors are not those of hhrnet.
        """
        self._trt = trt
        self._log = Log()
        self._cache = cache
        if decode is not None and plugin_kind(trt) == "python":
            register_plugins(trt)  # the plan names them
        runtime = trt.Runtime(make_logger(trt, self._log))
        if host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise BundleError(
                f"{trt.__name__} {trt.__version__} cannot open {plan}: {self._said()}.",
                hint="Build the engine again on this machine.",
            )
        self._runtime, self._engine = runtime, engine
        self.facts = _describe(trt, engine, str(plan.parent.name), decode)
        self._settings = None if cache is None else cache.load(engine)

    def context(self, profile: int, stream: int) -> PlanContext:
        """An execution context for one profile; it owns scratch memory on the card.

        Raises:
            CudaError: no memory for it, or the profile cannot be chosen.
        """
        engine = self._engine
        execution = engine.create_execution_context() if self._settings is None else self._configured(engine)
        if execution is None:
            raise failed("ICudaEngine.create_execution_context", self._said(), "preparing the engine")
        if not execution.set_optimization_profile_async(profile, stream):
            raise failed(
                "IExecutionContext.set_optimization_profile_async", self._said(), f"choosing profile {profile}"
            )
        return PlanContext(execution, self.facts, self._log)

    def _configured(self, engine: Any) -> Any:
        return engine.create_execution_context(self._settings)

    def save_kernels(self) -> None:
        """Keep what TensorRT-RTX compiled since the engine was opened."""
        if self._cache is not None:
            self._cache.save()

    def close(self) -> None:
        """Free the engine, then the runtime. All contexts have to be closed before."""
        if self._cache is not None:
            self._cache.close()
        self._settings = None
        self._engine = None
        self._runtime = None

    def _said(self) -> str:
        return "; ".join(self._log.errors) or "it gives no reason"


class PlanContext:
    """An execution context with its profile; one run at a time is enqueued."""

    def __init__(self, context: Any, facts: EngineFacts, log: Log) -> None:
        self._context = context
        self._facts = facts
        self._log = log
        self._shape: tuple[int, ...] = ()

    def is_capturable(self, stream: int) -> bool:
        """Whether runs of the present shape can go into a CUDA graph; TensorRT itself does not say, and can."""
        execution = self._context
        return not hasattr(execution, "is_stream_capturable") or bool(execution.is_stream_capturable(stream))

    def enqueue(self, infer: Infer, addresses: Mapping[str, int], stream: int) -> None:
        """Enqueue one run.

        Args:
            infer: shape of the input.
            addresses: of every tensor of the engine.
            stream: handle of the stream.

        Raises:
            CudaError: TensorRT refuses the shape, an address or the run; with what it says.
        """
        execution = self._context
        if infer.shape != self._shape:
            self._set_shape(execution, infer.shape)
        for name, address in addresses.items():
            if not execution.set_tensor_address(name, address):
                raise self._failed("set_tensor_address", f"setting the address of {name}")
        if not execution.execute_async_v3(stream):
            raise self._failed("execute_async_v3", f"running {self._facts.name} on {infer.shape}")

    def _set_shape(self, execution: Any, shape: tuple[int, ...]) -> None:
        if not execution.set_input_shape(INPUT, shape):
            raise self._failed("set_input_shape", f"setting the input to {shape}")
        missing = execution.infer_shapes()
        if missing:
            raise self._failed("infer_shapes", f"resolving the shapes of {', '.join(missing)}")
        for name in self._facts.outputs:
            found = tuple(execution.get_tensor_shape(name))
            if name in HEADS and found != head_shape(name, self._facts.joints, _nhw(shape, self._facts.layout)):
                raise CudaError(f"{self._facts.name} makes {name} of shape {found} for an input of shape {shape}.")
        self._shape = shape

    def close(self) -> None:
        """Free the context and its memory."""
        self._context = None

    def _failed(self, call: str, doing: str) -> CudaError:
        return failed(f"IExecutionContext.{call}", "; ".join(self._log.errors) or "it gives no reason", doing)


def _describe(trt: Any, engine: Any, name: str, decode: DecodeConfig | None) -> EngineFacts:
    tensors = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [one for one in tensors if engine.get_tensor_mode(one) == trt.TensorIOMode.INPUT]
    types = {one: _type_of(trt, engine, one) for one in tensors}
    outputs = {one: types[one] for one in tensors if one not in inputs}
    heads = [one for one in HEADS if one in outputs]
    known = set(outputs) <= set(HEADS) and heads[:2] == list(HEADS[:2]) and len(heads) in (2, 4)
    people = set(outputs) <= set(PEOPLE) and {"keypoints", "scores", "count", "joint_tags"} <= set(outputs)
    if inputs != [INPUT] or not (known or people) or (people and decode is None):
        raise BundleError(
            f"{name} has the inputs {inputs} and the outputs {sorted(outputs)}; expected {INPUT}, and heads "
            f"({', '.join(HEADS)}) or people ({', '.join(PEOPLE)}).",
            hint="Build it from a graph that `hhrnet export` wrote.",
        )
    if known and set(outputs.values()) not in ({"float32"}, {"float16"}):
        raise BundleError(f"The outputs of {name} have the types {outputs}; expected all float32 or all float16.")
    joints = tuple(engine.get_tensor_shape("fine"))[1] if known else tuple(engine.get_tensor_shape("keypoints"))[2]
    layout: Literal["uint8", "float"] = "uint8" if types[INPUT] == "uint8" else "float"
    return EngineFacts(name, int(joints), layout, outputs, _ranges(engine, layout), decode)


def _type_of(trt: Any, engine: Any, tensor: str) -> str:
    names = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.INT32: "int32",
        trt.DataType.UINT8: "uint8",
    }
    found = engine.get_tensor_dtype(tensor)
    return names.get(found, str(found))


def _ranges(engine: Any, layout: str) -> tuple[Range, ...]:
    fixed = tuple(engine.get_tensor_shape(INPUT))
    if -1 not in fixed:
        return (Range(_nhw(fixed, layout), _nhw(fixed, layout)),)
    found = []
    for number in range(engine.num_optimization_profiles):
        smallest, _, largest = (tuple(one) for one in engine.get_tensor_profile_shape(INPUT, number))
        found.append(Range(_nhw(smallest, layout), _nhw(largest, layout)))
    return tuple(found)


def _nhw(shape: tuple[int, ...], layout: str) -> Nhw:
    batch, *sides = shape
    height, width = sides[:2] if layout == "uint8" else sides[1:]
    return int(batch), int(height), int(width)
