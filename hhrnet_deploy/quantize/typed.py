"""A float32 graph becomes an fp16 or int8 one: calibrate, plan, emit, type."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.calibration_set import CalibrationSet
from hhrnet_deploy.quantize.collect import Done, calibrate
from hhrnet_deploy.quantize.cost import int8_share
from hhrnet_deploy.quantize.emit import emit
from hhrnet_deploy.quantize.equalize import equalized
from hhrnet_deploy.quantize.family import FAMILIES, Family
from hhrnet_deploy.quantize.half import kept_nodes, layers_out_of_range, to_half
from hhrnet_deploy.quantize.histogram import Method
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.statistics import Header, Statistics
from hhrnet_deploy.quantize.topology import Topology, read_topology
from hhrnet_deploy.targets.graph import Graph, GraphMetadata, Precision
from hhrnet_deploy.targets.quantization import CalibrationRecord, Quantization

WEIGHTS_ONLY = "weights only: this target rounds the weights to float16 and computes in float32"


@dataclass(frozen=True)
class Source:
    """A float32 graph, equalised, with the figures measured on it; it computes what the exported one does."""

    topology: Topology
    metadata: GraphMetadata
    statistics: Statistics

    @property
    def short_side(self) -> int:
        """S of the warp that the figures were measured with, pixels."""
        return self.statistics.header.short_side


@dataclass(frozen=True)
class TypedGraph:
    """The typed ONNX graph and what was decided about it."""

    model: onnx.ModelProto
    quantization: Quantization


def measurable(graph: Graph) -> Topology:
    """The topology of a graph that ranges can be measured on.

    Raises:
        InputError: the graph is typed already, or people leave it instead of heads.
    """
    metadata = graph.metadata
    if metadata.precision != "fp32":
        raise InputError(f"{graph.path} is an {metadata.precision} graph already.", hint="Give the float32 ONNX file.")
    if metadata.outputs == "people":
        raise InputError(
            f"{graph.path} decodes inside; figures are measured on its heads.",
            hint="Give the graph exported without --decode plugin: ranges and builds fit each other all the same.",
        )
    return read_topology(onnx.load(str(graph.path)), source=str(graph.path))


def measured_source(
    graph: Graph,
    *,
    calibration: CalibrationSet | None = None,
    ranges: Path | None = None,
    progress: Done | None = None,
) -> Source:
    """Load a graph and measure it, or take figures that were measured before.

    Args:
        graph: an exported float32 graph.
        calibration: the set; None takes what ``ranges`` holds.
        ranges: the file of the figures; default one in the cache, named after network and set.
        progress: called with (images done, remark).

    Raises:
        InputError: the graph is typed already, the set cannot be read, or ``ranges`` belongs to something else.
    """
    metadata, topology = graph.metadata, measurable(graph)
    if calibration is None:
        if ranges is None:
            raise InputError("Ranges need a calibration set or a file of hhrnet calibrate.")
        statistics = _finished(ranges, topology, graph.short_side)
        return Source(equalized(topology, statistics.maxima), metadata, statistics)
    measured = calibrate(
        topology,
        calibration,
        graph.short_side,
        float_input=metadata.input == "float",
        path=ranges,
        progress=progress,
    )
    return Source(measured.topology, metadata, measured.statistics)


def _finished(path: Path, topology: Topology, short_side: int) -> Statistics:
    statistics = Statistics.load(path)
    own = statistics.header
    statistics.check(own.model_copy(update={"network": topology.digest(), "short_side": short_side}), path)
    if not own.complete:
        raise InputError(
            f"The calibration file {path} is unfinished: {own.done} of {own.images} images.",
            hint="Give --calibration too, and it is finished first.",
        )
    return statistics


def family_of(target: str) -> Family:
    """What a target wants.

    Raises:
        InputError: the target takes no fp16 or int8 graphs.
    """
    if target not in FAMILIES:
        raise InputError(f"The target {target} takes no fp16 or int8 graphs.", hint=f"Known: {', '.join(FAMILIES)}.")
    return FAMILIES[target]


def type_graph(
    source: Source,
    precision: Precision,
    family: Family,
    *,
    keep: Collection[str] = (),
) -> TypedGraph:
    """The fp16 or int8 graph for a family of targets.

    Args:
        source: graph and figures.
        precision: ``fp16`` or ``int8``.
        family: for whom.
        keep: further convolutions that do not compute in int8.

    Raises:
        InputError: another precision, or a name in ``keep`` that the graph does not have.
    """
    if precision == "int8":
        return _int8(source, family, keep)
    if precision == "fp16":
        return _fp16(source, family)
    raise InputError(f"A graph can be typed as fp16 or int8, got {precision}.")


def _int8(source: Source, family: Family, keep: Collection[str]) -> TypedGraph:
    topology = source.topology
    placement = make_plan(topology, keep=keep)
    model = emit(topology, placement, source.statistics, family)
    overflowing: dict[str, float] = {}
    if family.half:
        overflowing = layers_out_of_range(topology, source.statistics)
        model = to_half(model, topology.entry, keep=kept_nodes(topology, overflowing))
    _set_precision(model, source.metadata, "int8")
    quantization = Quantization(
        family=family.name,
        calibration=_record(source.statistics.header, family.method),
        kept=placement.kept,
        float32_tensors=overflowing,
        int8_share=int8_share(topology, placement, source.short_side, fold_coarse=family.fold_coarse),
    )
    return TypedGraph(model, quantization)


def _fp16(source: Source, family: Family) -> TypedGraph:
    overflowing = layers_out_of_range(source.topology, source.statistics)
    kept = kept_nodes(source.topology, overflowing)
    model = to_half(source.topology.model, source.topology.entry, keep=kept)
    _set_precision(model, source.metadata, "fp16")
    quantization = Quantization(
        family=family.name,
        calibration=_record(source.statistics.header, None),
        kept=dict.fromkeys(sorted(kept), "activations beyond float16"),
        float32_tensors=overflowing,
        note=None if family.half else WEIGHTS_ONLY,
    )
    return TypedGraph(model, quantization)


def _record(header: Header, method: Method | None) -> CalibrationRecord:
    return CalibrationRecord(
        name=header.set_name,
        images=header.images,
        set_sha256=header.calibration,
        network_sha256=header.network,
        method=method,
    )


def _set_precision(model: onnx.ModelProto, metadata: GraphMetadata, precision: Precision) -> None:
    props = metadata.model_copy(update={"precision": precision}).to_props()
    own = set(props)
    others = [(entry.key, entry.value) for entry in model.metadata_props if entry.key not in own]
    del model.metadata_props[:]
    for key, value in sorted([*others, *props.items()]):
        model.metadata_props.add(key=key, value=value)


def save_graph(typed: TypedGraph, path: Path) -> Graph:
    """Write the typed ONNX file, byte for byte the same for the same inputs, and describe it."""
    from hhrnet_deploy.files import write_bytes
    from hhrnet_deploy.targets.graph import read_graph

    write_bytes(path, typed.model.SerializeToString(deterministic=True))
    return read_graph(path)
