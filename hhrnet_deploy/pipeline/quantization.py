"""The step of a build between the exported graph and the target: number types."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.quantize.histogram import DEFAULT_METHOD
from hhrnet_deploy.targets.graph import Graph, Precision
from hhrnet_deploy.targets.quantization import Quantization

Note = Callable[[str], None]


class Advance(Protocol):
    """Report progress: how many items are done, and a remark."""

    def __call__(self, done: int, note: str = "") -> None:
        """``done`` counts from the start."""


Bar = Callable[[str, int | None], AbstractContextManager[Advance]]


def typed_for(
    graph: Graph, precision: Precision, wanted: EngineSpec, scratch: Path, *, note: Note, bar: Bar | None
) -> tuple[Graph, Quantization | None]:
    """The graph in the precision asked for, written into ``scratch``; the graph itself where it is that already.

    Raises:
        InputError: calibration options for a graph that takes none, or what `open_source` and `type_graph` raise.
    """
    if precision not in ("fp16", "int8") or graph.metadata.precision == precision:
        _require_no_calibration(wanted, precision)
        return graph, None
    from hhrnet_deploy.quantize.typed import family_of, open_source, save_graph, type_graph

    family = family_of(wanted.target)
    note(f"calibrating on {wanted.calibration or wanted.ranges or 'the synthetic set'}")
    if bar is None:
        source = open_source(graph, calibration=wanted.calibration, ranges=wanted.ranges)
    else:
        with bar("calibrating", None) as advance:
            source = open_source(graph, calibration=wanted.calibration, ranges=wanted.ranges, progress=advance)
    typed = type_graph(source, precision, family, method=wanted.range_method or DEFAULT_METHOD)
    if typed.quantization.note is not None:
        note(f"{precision} on {wanted.target}: {typed.quantization.note}")
    return save_graph(typed, scratch / f"heads.{precision}.onnx"), typed.quantization


def _require_no_calibration(wanted: EngineSpec, precision: str) -> None:
    given = [name for name in ("calibration", "ranges", "range_method") if getattr(wanted, name) is not None]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} has no meaning for a graph that is already, or stays, {precision}.",
            hint="Give a float32 model and --precision int8 or fp16.",
        )


def quantization_words(wanted: EngineSpec) -> list[str]:
    """The command-line options that ask for the same number types."""
    words = ["--calibration", wanted.calibration] if wanted.calibration is not None else []
    words += ["--ranges", str(wanted.ranges)] if wanted.ranges is not None else []
    words += ["--range-method", wanted.range_method] if wanted.range_method is not None else []
    return words
