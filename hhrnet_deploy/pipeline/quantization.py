"""The step of a build between the exported graph and the target: number types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hhrnet_deploy.errors import InputError, MissingDependencyError
from hhrnet_deploy.pipeline.budget import BudgetRequest, BudgetSearch
from hhrnet_deploy.pipeline.progress import Bar, Note, bar_or_nothing
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.quantize.calibration_set import DEFAULT_SET, open_calibration
from hhrnet_deploy.quantize.collect import passes
from hhrnet_deploy.quantize.sensitivity import plot_sensitivity
from hhrnet_deploy.quantize.typed import Source, TypedGraph, family_of, measured_source, save_graph, type_graph
from hhrnet_deploy.targets.graph import Graph, Precision
from hhrnet_deploy.targets.quantization import Quantization
from hhrnet_deploy.targets.registry import find_target

TYPED = ("fp16", "int8")
SENSITIVITY = "sensitivity.png"


def typed_for(
    graph: Graph,
    precision: Precision,
    wanted: EngineSpec,
    scratch: Path,
    *,
    note: Note,
    bar: Bar | None,
    budget: BudgetRequest | None = None,
) -> tuple[Graph, Quantization | None]:
    """The graph in the precision asked for, written into ``scratch``; the graph itself where it is that already.

    Raises:
        InputError: calibration options or a budget for a graph that takes none, or what calibrating raises.
        GateFailedError: the budget cannot be kept.
    """
    if precision not in TYPED or graph.metadata.precision == precision:
        _require_no_calibration(wanted, precision)
    if budget is not None and (precision != "int8" or graph.metadata.precision == precision):
        raise InputError(
            f"--max-ap-drop chooses layers of an int8 build from a float32 model; this is a build in {precision}.",
            hint="Give --precision int8 and a checkpoint, or check the engine: hhrnet eval --engine E --max-ap-drop X",
        )
    if precision not in TYPED or graph.metadata.precision == precision:
        return graph, None
    typed = _typed(graph, precision, wanted, note=note, bar=bar, budget=budget)
    if typed.quantization.note is not None:
        note(f"{precision} on {wanted.target}: {typed.quantization.note}")
    return save_graph(typed, scratch / f"heads.{precision}.onnx"), typed.quantization


def _typed(
    graph: Graph,
    precision: Precision,
    wanted: EngineSpec,
    *,
    note: Note,
    bar: Bar | None,
    budget: BudgetRequest | None,
) -> TypedGraph:
    family = family_of(wanted.target)
    if wanted.range_method is not None:
        family = replace(family, method=wanted.range_method)
    source = _measured(graph, wanted, note=note, bar=bar)
    if budget is None:
        return type_graph(source, precision, family)
    chosen = open_calibration(wanted.calibration)
    search = BudgetSearch(source, graph, find_target(wanted.target), family, chosen, budget)
    return search.run(note=note, bar=bar)


def _measured(graph: Graph, wanted: EngineSpec, *, note: Note, bar: Bar | None) -> Source:
    """Figures from a file, from the cache, or measured now."""
    if wanted.ranges is not None and wanted.calibration is None:
        if not wanted.ranges.exists():
            raise InputError(
                f"There are no ranges {wanted.ranges}.",
                hint="Measure them with hhrnet calibrate, or name images with --calibration: they are written then.",
            )
        return measured_source(graph, ranges=wanted.ranges)
    note(f"calibrating on {DEFAULT_SET if wanted.calibration is None else wanted.calibration}")
    chosen = open_calibration(wanted.calibration)
    with bar_or_nothing(bar, "calibrating", passes(chosen)) as advance:
        return measured_source(graph, calibration=chosen, ranges=wanted.ranges, progress=advance)


def _require_no_calibration(wanted: EngineSpec, precision: str) -> None:
    given = [name for name in ("calibration", "ranges", "range_method") if getattr(wanted, name) is not None]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} has no meaning for a graph that is already, or stays, {precision}.",
            hint="Give a float32 model and --precision int8 or fp16.",
        )


def draw_sensitivity(quantization: Quantization | None, folder: Path, note: Note) -> tuple[str, ...]:
    """Draw the plot of an accuracy budget into a bundle; the names of the files that were written."""
    if quantization is None or quantization.budget is None or not quantization.budget.sensitivity:
        return ()
    try:
        plot_sensitivity(quantization.budget.sensitivity, frozenset(quantization.kept), folder / SENSITIVITY)
    except MissingDependencyError as error:
        note(f"no plot of the sensitivity: {error.fact}")
        return ()
    return (SENSITIVITY,)


def quantization_words(wanted: EngineSpec) -> list[str]:
    """The command-line options that ask for the same number types."""
    words = ["--calibration", wanted.calibration] if wanted.calibration is not None else []
    words += ["--ranges", str(wanted.ranges)] if wanted.ranges is not None else []
    words += ["--range-method", wanted.range_method] if wanted.range_method is not None else []
    return words
