"""``build_engine``: checkpoint or ONNX file to an engine bundle, measured against its graph."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.exporting import ExportReport, export_onnx
from hhrnet_deploy.export.samples import parity_shapes, sample_batches
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.pipeline.budget import BudgetRequest
from hhrnet_deploy.pipeline.decoding import heads_graph, people_graph
from hhrnet_deploy.pipeline.progress import Bar
from hhrnet_deploy.pipeline.quantization import draw_sensitivity, quantization_words, typed_for
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.targets.bundle import (
    LAYERS,
    check_replaceable,
    file_entries,
    tool_version,
    write_layers,
    write_manifest,
    writing_bundle,
)
from hhrnet_deploy.targets.graph import Graph, Precision, read_graph
from hhrnet_deploy.targets.graph_cost import GraphCost, assign_work, read_cost
from hhrnet_deploy.targets.manifest import Manifest, Shapes, Sources
from hhrnet_deploy.targets.parity import TOLERANCES, Parity, check, compare
from hhrnet_deploy.targets.quantization import Quantization
from hhrnet_deploy.targets.registry import find_target
from hhrnet_deploy.targets.target import BuildSettings, Built, RunOptions, Target

if TYPE_CHECKING:
    import torch

    from hhrnet_deploy.model.presets import Preset

Note = Callable[[str], None]
ENGINES = Path("engines")


class BuildReport(BaseModel):
    """What was built.

    Attributes:
        path: the bundle's directory.
        bytes: of all its files.
        manifest: as stored in the bundle.
        export: the report of the export, when a checkpoint was given.
        seconds: how long it all took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    bytes: int
    manifest: Manifest
    export: ExportReport | None
    seconds: float


@dataclass(frozen=True)
class _Job:
    graph: Graph  # what is built
    target: Target
    precision: Precision
    rebuild: str
    images: str | Path | None
    settings: BuildSettings
    source: Graph  # float32 heads, before typing
    typed: Graph  # heads as they are built
    quantization: Quantization | None = None


def build_engine(
    model: torch.nn.Module | str | Path = "default",
    output: str | Path | None = None,
    *,
    spec: EngineSpec | None = None,
    preset: str | Path | Preset | None = None,
    images: str | Path | None = None,
    progress: Note | None = None,
    bar: Bar | None = None,
    budget: BudgetRequest | None = None,
    **changes: Any,
) -> BuildReport:
    """Build an engine bundle and measure it against its ONNX graph.

    Args:
        model: an ONNX file of ``hhrnet export``, a checkpoint file, ``"default"`` for the model that ships, or a
            network of `load_model`. A checkpoint or network is exported first.
        output: the bundle's directory; default ``engines/<preset>-<target>-<precision>``. A bundle that is there is
            replaced once the new one is complete.
        spec: what to build; see `EngineSpec`.
        preset: of a checkpoint that does not say what it is.
        images: folder of photos to compare on; default synthetic people.
        progress: called with a line per step.
        bar: gives a progress bar for (title, total); for targets that take minutes.
        budget: the AP drop allowed of an int8 engine; layers go back to higher precision until it is kept.
        **changes: fields of `EngineSpec` that replace the spec's, for example ``target="onnxruntime"``.

    Raises:
        InputError: a precision or graph that the target cannot do, a folder that is no bundle, a contradiction.
        GateFailedError: the engine differs from its graph; an earlier bundle stays as it was.
    """
    started = time.perf_counter()
    note = progress or (lambda _: None)
    wanted = (spec or EngineSpec()).with_changes(**changes)
    target = find_target(wanted.target)
    if wanted.precision is not None:
        target.check_precision(wanted.precision)
    target.check_ready(wanted.tensorrt)
    if output is not None:
        check_replaceable(output)
    with tempfile.TemporaryDirectory(prefix="hhrnet-build-") as scratch:
        given, export = _graph(model, wanted, preset, images=images, scratch=Path(scratch), note=note)
        target.check_graph(given)
        graph = heads_graph(given, Path(scratch))
        precision = _precision(graph, wanted)
        folder = Path(output) if output is not None else _default_output(graph, target, precision)
        check_replaceable(folder)
        typed, quantization = typed_for(graph, precision, wanted, Path(scratch), note=note, bar=bar, budget=budget)
        rebuild = _rebuild_command(model, folder, wanted, precision, preset, budget=budget)
        with _reporting(bar, target) as report:
            settings = BuildSettings(tensorrt=wanted.tensorrt, report=report)
            decoding = people_graph(typed, given.metadata.decode, Path(scratch))
            job = _Job(decoding, target, precision, rebuild, images, settings, graph, typed, quantization)
            manifest = _write(job, folder, note)
    return BuildReport(
        path=str(folder),
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        manifest=manifest,
        export=export,
        seconds=round(time.perf_counter() - started, 2),
    )


def _graph(
    model: torch.nn.Module | str | Path,
    wanted: EngineSpec,
    preset: str | Path | Preset | None,
    *,
    images: str | Path | None,
    scratch: Path,
    note: Note,
) -> tuple[Graph, ExportReport | None]:
    if isinstance(model, str | Path) and Path(model).suffix == ".onnx":
        graph = read_graph(model)
        _check_conventions(graph, wanted, preset)
        return graph, None
    report = export_onnx(
        model,
        scratch / "heads.onnx",
        preset=preset,
        size=wanted.size,
        batch=wanted.batch,
        flip=wanted.flip,
        input=wanted.input,
        images=images,
        progress=note,
    )
    return read_graph(scratch / "heads.onnx"), report


def _check_conventions(graph: Graph, wanted: EngineSpec, preset: str | Path | Preset | None) -> None:
    """An exported graph has its conventions already; options that say otherwise are an error, not ignored."""
    given = wanted.model_fields_set
    size = None if graph.size is None else f"{graph.size[1]}x{graph.size[0]}"
    actual = {
        "size": size or "dynamic",
        "batch": graph.batch or "dynamic",
        "flip": graph.metadata.flip,
        "input": graph.metadata.input,
    }
    asked = {key: getattr(wanted, key) for key in actual if key in given and getattr(wanted, key) is not None}
    if preset is not None:
        actual["preset"], asked["preset"] = graph.metadata.preset, _preset_name(preset)
    for key, value in asked.items():
        if value != actual[key]:
            raise InputError(
                f"{graph.path} was exported with {key} {actual[key]}; {value} was asked for.",
                hint="Give the checkpoint instead, or export it again with that option.",
            )


def _precision(graph: Graph, wanted: EngineSpec) -> Precision:
    own = graph.metadata.precision
    asked = wanted.precision or own
    # A float32 graph can be run in narrower types; one that is typed already is what it is.
    if own not in ("fp32", asked):
        raise InputError(
            f"{graph.path} is an {own} graph; it cannot be built as {asked}.", hint="Give the checkpoint instead."
        )
    return asked


def _write(job: _Job, folder: Path, note: Note) -> Manifest:
    job.target.check_precision(job.precision)
    with writing_bundle(folder) as temporary:
        note(f"building for {job.target.name} in {job.precision}")
        built = job.target.build(job.graph, temporary, job.precision, job.settings)
        cost, nodes = read_cost(job.typed.path, _counted_size(job.graph))
        write_layers(temporary, assign_work(built.layers, nodes))
        built = replace(built, files=(*built.files, *draw_sensitivity(job.quantization, temporary, note)))
        parity = _checked_parity(job, built, temporary, folder, note)
        manifest = write_manifest(temporary, _manifest(job, built, temporary, parity, cost))
    return manifest


def _counted_size(graph: Graph) -> tuple[int, int]:
    """(H, W) that costs are counted for: the graph's own size, or the square of the preset's short side."""
    width, height = graph.size or (graph.metadata.short_side,) * 2
    return height, width


def _checked_parity(job: _Job, built: Built, temporary: Path, folder: Path, note: Note) -> Parity | None:
    reason = _not_compared(job)
    if reason is not None:
        note(f"not compared with the ONNX graph: {reason}")
        return None
    note("comparing with the ONNX graph")
    parity = _parity(job, built, temporary)
    check(parity, TOLERANCES[job.precision], what=f"Engine {folder}")
    return parity


def _not_compared(job: _Job) -> str | None:
    """Why the engine is not held against its ONNX graph; None where it is."""
    if job.graph.metadata.outputs == "people":
        return "it returns people, and its heads never leave it; hhrnet eval --engine ... --reference ... compares them"
    return job.target.cannot_run_here()


@contextmanager
def _reporting(bar: Bar | None, target: Target) -> Iterator[Callable[[float, str], None]]:
    """What a target reports its progress to, in percent of ``bar``."""
    if bar is None or not target.slow_to_build:
        yield lambda share, phase: None
        return
    with bar(f"building for {target.name}", 100) as advance:
        yield lambda share, phase: advance(int(100 * share), phase)


def _parity(job: _Job, built: Built, folder: Path) -> Parity:
    from hhrnet_deploy.targets.onnxruntime import OnnxRuntimeRunner

    graph = job.source
    shapes = parity_shapes(graph.metadata.short_side, graph.size and graph.size[::-1], graph.batch)
    batches, origin = sample_batches(shapes, job.images)
    onnx_info = graph.info("the ONNX graph", "onnxruntime", graph.metadata.precision)
    with OnnxRuntimeRunner(graph.path, onnx_info, RunOptions()) as reference:
        expected = [reference.heads(batch) for batch in batches]
    info = job.graph.info("the engine", job.target.name, job.precision)
    with job.target.runner(folder, info, dict(built.hints), RunOptions()) as engine:
        pairs = [(heads, engine.heads(batch)) for heads, batch in zip(expected, batches, strict=True)]
    return Parity(reference="onnx", images=origin, shapes=tuple(shapes), outputs=compare(pairs))


def _manifest(job: _Job, built: Built, folder: Path, parity: Parity | None, cost: GraphCost) -> Manifest:
    meta = job.graph.metadata
    return Manifest(
        tool_version=tool_version(),
        target=job.target.name,
        target_version=job.target.version(),
        device=built.device or job.target.device(),
        precision=job.precision,
        preset=meta.preset,
        skeleton=meta.skeleton,
        short_side=job.graph.short_side,
        input=meta.input,
        outputs=meta.outputs,
        flip=meta.flip,
        shapes=_shapes(job.graph, built),
        hints=built.hints,
        decode=meta.decode,
        sources=_sources(job),
        cost=cost,
        quantization=job.quantization,
        files=file_entries(folder, (*built.files, LAYERS)),
        parity=parity,
        parity_missing=_not_compared(job) if parity is None else None,
        rebuild=job.rebuild,
    )


def _shapes(graph: Graph, built: Built) -> Shapes:
    width, height = graph.size or (None, None)
    batches = [profile.max[0] for profile in built.profiles]
    largest = min(batches) if batches and graph.batch is None else None
    return Shapes(batch=graph.batch, width=width, height=height, max_batch=largest, profiles=built.profiles)


def _preset_name(preset: str | Path | Preset) -> str:
    from hhrnet_deploy.model.presets import find_preset

    return find_preset(preset).name if isinstance(preset, str | Path) else preset.name


def _sources(job: _Job) -> Sources:
    calibration = None if job.quantization is None else job.quantization.calibration.set_sha256
    return Sources(
        onnx=sha256_of(job.graph.path), checkpoint=job.graph.metadata.checkpoint_sha256, calibration=calibration
    )


def _default_output(graph: Graph, target: Target, precision: str) -> Path:
    return ENGINES / f"{graph.metadata.preset}-{target.name}-{precision}"


def _rebuild_command(
    model: torch.nn.Module | str | Path,
    folder: Path,
    wanted: EngineSpec,
    precision: str,
    preset: str | Path | Preset | None,
    *,
    budget: BudgetRequest | None,
) -> str:
    """The command line that builds this bundle again."""
    words = ["hhrnet", "build", str(model) if isinstance(model, str | Path) else "CHECKPOINT"]
    words += ["--target", wanted.target, "--precision", precision]
    if preset is not None:
        words += ["--preset", str(preset) if isinstance(preset, str | Path) else preset.name]
    words += wanted.shape_words()
    words += [] if budget is None else budget.words()
    return shlex.join([*words, *quantization_words(wanted), *wanted.tensorrt.words(), "-o", str(folder)])
