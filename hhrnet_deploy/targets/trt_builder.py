"""One builder for TensorRT 10 and 11 and for TensorRT-RTX: the module is passed in, the calls are the same.

Networks are strongly typed: a precision is a property of the ONNX graph (float16 tensors, Q/DQ pairs), never a flag.
Only names that exist in all of these modules are used; the few others are asked for by name and refused with the
release that has them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.files import write_bytes
from hhrnet_deploy.targets.graph import INPUT, Graph
from hhrnet_deploy.targets.trt_callbacks import Log, Progress, Report, make_logger, make_monitor
from hhrnet_deploy.targets.trt_options import Profile, TensorRtOptions
from hhrnet_deploy.targets.trt_plugins import register_plugins

if TYPE_CHECKING:
    import onnx

_STANDARD_DOMAINS = ("", "ai.onnx")
_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
_WAIT = 0.1  # seconds between two looks at Ctrl-C


@dataclass(frozen=True)
class Plan:
    """A serialised engine and what was said while it was built."""

    data: bytes
    log: Log


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        graph: the typed graph.
        profiles: its optimisation profiles; none where it has one shape.
        options: see `TensorRtOptions`.
        capabilities: names of ``ComputeCapability`` that TensorRT-RTX builds for; empty for TensorRT.
        report: shows the progress.
    """

    graph: Graph
    profiles: tuple[Profile, ...]
    options: TensorRtOptions
    capabilities: tuple[str, ...]
    report: Report


def build_plan(trt: Any, request: Request) -> Plan:
    """Build the engine; Ctrl-C cancels it at TensorRT's next step.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        request: what to build.

    Raises:
        InputError: an operator or a graph that TensorRT does not take.
        HHRNetError: the build failed; with what TensorRT said.
        KeyboardInterrupt: it was cancelled.
    """
    progress = Progress(request.report)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="hhrnet-build") as worker:
        # In a thread of its own, because the main one has to be free to see Ctrl-C while TensorRT is busy.
        future = worker.submit(_build_alone, trt, request, progress)
        try:
            return _waited(future)
        except BaseException:
            progress.cancel()
            raise


def _waited(future: Future[Plan]) -> Plan:
    while not future.done():
        time.sleep(_WAIT)
    return future.result()


def _build_alone(trt: Any, request: Request, progress: Progress) -> Plan:
    """`_build`, whose objects are gone when it ends.

    Those that an exception's traceback keeps alive would be freed by the garbage collector at any later time, also
    inside a callback of the next build, where TensorRT waits for its own lock for ever (seen with TensorRT-RTX 1.7).
    """
    try:
        plan = _build(trt, request, progress)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    request.report(1.0, "done")
    return plan


def _build(trt: Any, request: Request, progress: Progress) -> Plan:
    log = Log()
    logger = make_logger(trt, log)
    builder = _builder(trt, logger, log)
    if request.graph.metadata.outputs == "people":
        register_plugins(trt)  # the parser looks for them
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _parse(trt, parser, request.graph)
    config = builder.create_builder_config()
    _configure(trt, config, request)
    for profile in request.profiles:
        _add_profile(builder, config, profile, request.graph.metadata.input)
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    cache = request.options.timing_cache
    if cache is not None:
        _load_timings(config, cache)
    serialized = builder.build_serialized_network(network, config)
    if progress.cancelled:
        raise KeyboardInterrupt
    if serialized is None:
        raise _failed(f"{trt.__name__} {trt.__version__} could not build {request.graph.path}", log)
    if cache is not None:
        timings = config.get_timing_cache()
        write_bytes(cache, bytes(timings.serialize()))
    return Plan(bytes(serialized), log)


def _builder(trt: Any, logger: Any, log: Log) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # what the binding makes of a null pointer, mostly a driver that does not fit
        raise _failed(f"{trt.__name__} {trt.__version__} cannot start", log) from error


def _parse(trt: Any, parser: Any, graph: Graph) -> None:
    refuse_unknown_operators(trt, parser, graph.path, decodes=graph.metadata.outputs == "people")
    if parser.parse_from_file(str(graph.path)):
        return
    problems = [parser.get_error(number) for number in range(parser.num_errors)]
    lines = [
        " ".join(filter(None, (problem.node_operator(), problem.node_name(), problem.desc()))) for problem in problems
    ]
    raise InputError(
        f"{trt.__name__} {trt.__version__} does not take {graph.path}: " + "; ".join(lines or ["it gives no reason"]),
        hint="Graphs of `hhrnet export` and `hhrnet build` are taken; export the checkpoint again.",
    )


def refuse_unknown_operators(trt: Any, parser: Any, path: Path, *, decodes: bool = False) -> None:
    """Name the operators that need a plugin before the parser sees them: TensorRT-RTX's ends the process on one.

    Args:
        trt: the module.
        parser: of that module.
        path: the ONNX file.
        decodes: the ops of domain ``hhrnet`` are registered.

    Raises:
        InputError: the graph has such operators.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in _nodes(model.graph.node)
            if not _is_known(parser, node, decodes=decodes)
        }
    )
    if unknown:
        raise InputError(
            f"{path} holds operators that {trt.__name__} {trt.__version__} does not know: {', '.join(unknown)}.",
            hint="TensorRT-RTX takes no plugins. Export without --decode plugin: people are found after the engine."
            if "rtx" in trt.__name__
            else "Export with heads as outputs, or use the TensorRT release the operators are made for.",
        )


def _is_known(parser: Any, node: onnx.NodeProto, *, decodes: bool) -> bool:
    if node.domain == DOMAIN:
        return decodes and node.op_type in OPS
    return node.domain in _STANDARD_DOMAINS and parser.supports_operator(node.op_type)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and loops included."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nodes(graph.node)


def _configure(trt: Any, config: Any, request: Request) -> None:
    options = request.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set(config, trt.BuilderFlag.TF32, options.tf32)
    _set(config, trt.BuilderFlag.REFIT, options.refit)
    _set(config, trt.BuilderFlag.STRIP_PLAN, options.strip)
    _set(config, trt.BuilderFlag.REFIT_IDENTICAL, options.strip)
    _set(config, trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible is not None:
        name = _HARDWARE[options.hardware_compatible]
        config.hardware_compatibility_level = _member(trt, "HardwareCompatibilityLevel", name)
    if request.capabilities:
        config.num_compute_capabilities = len(request.capabilities)
        for number, name in enumerate(request.capabilities):
            config.set_compute_capability(_member(trt, "ComputeCapability", name), number)


def _set(config: Any, flag: Any, wanted: bool) -> None:
    if wanted:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)


def _member(trt: Any, enum: str, name: str) -> Any:
    """A member that not every release has."""
    members = getattr(trt, enum)
    if not hasattr(members, name):
        raise InputError(
            f"{trt.__name__} {trt.__version__} does not have {enum} {name}.",
            hint=f"It has: {', '.join(sorted(n for n in dir(members) if n.isupper()))}.",
        )
    return getattr(members, name)


def _add_profile(builder: Any, config: Any, profile: Profile, layout: Literal["uint8", "float"]) -> None:
    made = builder.create_optimization_profile()
    smallest, tuned, largest = (
        (count, height, width, 3) if layout == "uint8" else (count, 3, height, width)
        for count, height, width in (profile.min, profile.opt, profile.max)
    )
    made.set_shape(INPUT, smallest, tuned, largest)
    if config.add_optimization_profile(made) < 0:
        raise InputError(f"TensorRT does not take the profile {profile.min} to {profile.max}.")


def _load_timings(config: Any, path: Path) -> None:
    """Use the timings of the file, or none; TensorRT checks that they are of this release and card."""
    stored = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if stored is None or not config.set_timing_cache(stored, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _failed(fact: str, log: Log) -> HHRNetError:
    said = "; ".join(log.errors)
    memory = "memory" in said.lower()
    hint = "Try smaller --shapes or --max-batch, or a limit with --workspace-mib." if memory else None
    return HHRNetError(f"{fact}: {said or 'it gives no reason.'}", hint=hint)
