"""``calibrate_model``: a checkpoint or ONNX file and a set of images to a file of ranges."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hhrnet_deploy.data.manifest import manifest_text
from hhrnet_deploy.export.exporting import export_onnx
from hhrnet_deploy.files import write_text
from hhrnet_deploy.pipeline.progress import Bar, Note, bar_or_nothing
from hhrnet_deploy.quantize.calibration_set import CalibrationSet, open_calibration
from hhrnet_deploy.quantize.collect import Calibration, calibrate, passes
from hhrnet_deploy.quantize.family import INT8_LEVELS, UINT8_LEVELS
from hhrnet_deploy.quantize.histogram import DEFAULT_METHOD, Method
from hhrnet_deploy.quantize.typed import measurable
from hhrnet_deploy.targets.graph import Graph, read_graph


class TensorRange(BaseModel):
    """One tensor: extremes over the set, and where 8 bits clip it (255 steps where it cannot be negative)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor: str
    low: float
    high: float
    threshold: float


class CalibrationReport(BaseModel):
    """What was measured.

    Attributes:
        path: the file of the figures.
        set_name, images: the calibration set.
        set_sha256, network_sha256: what the figures belong to.
        resumed_from: how many images an earlier run had done.
        method: of the thresholds below; the file serves all methods.
        tensors: largest threshold first.
        manifest: the manifest that was written, when one was asked for.
        seconds: how long it took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    set_name: str
    images: int
    set_sha256: str
    network_sha256: str
    resumed_from: int
    method: Method
    tensors: tuple[TensorRange, ...]
    manifest: str | None
    seconds: float


def calibrate_model(
    model: str | Path,
    calibration: str | None = None,
    *,
    output: Path | None = None,
    write_manifest: Path | None = None,
    method: Method = DEFAULT_METHOD,
    preset: str | None = None,
    note: Note = lambda _: None,
    bar: Bar | None = None,
) -> CalibrationReport:
    """Measure a network over a set, or take what was measured before.

    Args:
        model: an ONNX file of ``hhrnet export``, a checkpoint, or ``"default"``.
        calibration: the set; default the committed synthetic one.
        output: file of the figures; default in the cache, where builds look for it.
        write_manifest: where to write the manifest of the set.
        method: of the thresholds in the report.
        preset: of a checkpoint that does not say what it is.
        note: called with a line per step.
        bar: opens a progress bar with a title and a total.

    Raises:
        InputError: the model, the set or an earlier file does not fit.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hhrnet-calibrate-") as scratch:
        graph = _graph(model, preset, Path(scratch), note)
        topology = measurable(graph)
    chosen = open_calibration(calibration)
    if write_manifest is not None:
        write_text(write_manifest, manifest_text(chosen.manifest))
    with bar_or_nothing(bar, "calibrating", passes(chosen)) as advance:
        found = calibrate(
            topology,
            chosen,
            graph.short_side,
            float_input=graph.metadata.input == "float",
            path=output,
            progress=advance,
        )
    rectified = {topology.key(tensor) for tensor in topology.producer if topology.is_rectified(tensor)}
    seconds = round(time.perf_counter() - started, 2)
    return _report(
        found,
        chosen,
        method,
        tensors=_ranges(found, method, rectified),
        manifest=write_manifest,
        seconds=seconds,
    )


def _graph(model: str | Path, preset: str | None, scratch: Path, note: Note) -> Graph:
    if Path(model).suffix == ".onnx":
        return read_graph(model)
    export_onnx(model, scratch / "heads.onnx", preset=preset, progress=note)
    return read_graph(scratch / "heads.onnx")


def _ranges(found: Calibration, method: Method, rectified: set[str]) -> tuple[TensorRange, ...]:
    ranges = [
        TensorRange(
            tensor=key,
            low=item.low,
            high=item.high,
            threshold=item.threshold(method, UINT8_LEVELS if key in rectified else INT8_LEVELS),
        )
        for key, item in found.statistics.tensors.items()
    ]
    return tuple(sorted(ranges, key=lambda item: (-item.threshold, item.tensor)))


def _report(
    found: Calibration,
    chosen: CalibrationSet,
    method: Method,
    *,
    tensors: tuple[TensorRange, ...],
    manifest: Path | None,
    seconds: float,
) -> CalibrationReport:
    header = found.statistics.header
    return CalibrationReport(
        path=str(found.path),
        set_name=chosen.name,
        images=len(chosen),
        set_sha256=header.calibration,
        network_sha256=header.network,
        resumed_from=found.resumed_from,
        method=method,
        tensors=tensors,
        manifest=None if manifest is None else str(manifest),
        seconds=seconds,
    )
