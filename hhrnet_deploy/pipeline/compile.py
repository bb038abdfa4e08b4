"""``compile_checkpoint``: export, build, evaluate, time and report; each stage is done once for the same inputs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.evaluate.report import EvaluationReport
from hhrnet_deploy.evaluate.run import EvaluationOptions, evaluate
from hhrnet_deploy.export.exporting import export_onnx
from hhrnet_deploy.files import sha256_of, write_text
from hhrnet_deploy.pipeline.bench import BenchReport, Contestant, run_bench
from hhrnet_deploy.pipeline.budget import BudgetRequest
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.cache import StageCache, StageRun, digest_of, tool_identity
from hhrnet_deploy.pipeline.quantization import quantization_words
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.pipeline.stage_inputs import (
    calibration_identity,
    data_identity,
    machine,
    package_versions,
    preset_identity,
)
from hhrnet_deploy.targets.bundle import Bundle, read_bundle
from hhrnet_deploy.targets.registry import find_target

Note = Callable[[str], None]
Advance = Callable[[int, str], None]
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]

HEADS, ENGINE, REPORT = "heads.onnx", "engine", "report.html"
_BENCH_PHOTOS = 16
_EVALUATION = TypeAdapter(EvaluationReport)
_BENCH = TypeAdapter(BenchReport)


@dataclass(frozen=True)
class CompileOptions:
    """What to make of a checkpoint.

    Attributes:
        spec: target, precision and shapes of the engine.
        preset: of a checkpoint that does not say what it is.
        flip: evaluate and time with the flip test, as published.
        skeleton: the file that the data set was opened with, when its joints are not those the model names.
        max_ap_drop: the largest AP drop allowed. An int8 engine gets layers in higher precision until it is kept;
            whether it is, the caller checks once the report is there.
        pairs: timed pairs of engine and reference; 0 leaves the timing out.
        pictures: how many photos the report shows, those that differ most.
        data_words: the command-line options that open the data; default its folder and split.
        engine_words: the command-line options of ``hhrnet compile`` that choose the engine; default target, precision
            and calibration.
    """

    spec: EngineSpec
    preset: str | None = None
    flip: bool = True
    skeleton: Path | None = None
    max_ap_drop: float | None = None
    pairs: int = 10
    pictures: int = 6
    data_words: tuple[str, ...] | None = None
    engine_words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Compiled:
    """What a compilation made; every path lies in ``folder``."""

    folder: Path
    onnx: Path
    bundle: Path
    report: Path
    evaluation: EvaluationReport
    bench: BenchReport | None
    stages: list[StageRun]

    def as_document(self) -> dict[str, Any]:
        """The JSON document of ``hhrnet compile --json``."""
        stages = [{"name": run.name, "cached": run.cached, "seconds": run.record.seconds} for run in self.stages]
        return {
            **self.evaluation.as_document(),
            "bench": None if self.bench is None else self.bench.as_document(),
            "onnx": str(self.onnx),
            "bundle": str(self.bundle),
            "report": str(self.report),
            "stages": stages,
        }


def compile_checkpoint(
    checkpoint: str | Path,
    folder: Path,
    data: KeypointDataset,
    options: CompileOptions,
    *,
    note: Note = lambda line: None,
    progress: Progress = lambda title, total: nullcontext(lambda done, note="": None),
) -> Compiled:
    """Take a checkpoint to a validated engine with a report.

    Every stage is kept with the hashes of its inputs, its options and the versions it ran with: a second run does
    only what has changed, and a run that was killed goes on where it stopped, the evaluation at the last image.

    Args:
        checkpoint: a checkpoint file, or ``"default"`` for the model that ships.
        folder: gets ``heads.onnx``, ``engine/``, ``report.html`` and ``.cache/``.
        data: annotated images for the AP of engine and PyTorch reference.
        options: what to make.
        note: called with a line per step.
        progress: gives a progress bar for (title, total).

    Raises:
        InputError: options, checkpoint and data do not fit each other; checked before the first stage where possible.
        GateFailedError: the graph differs from PyTorch, or the engine from its graph.
    """
    with StageCache(folder) as stages:
        return _Compilation(checkpoint, stages, data, options, note=note, progress=progress).run()


class _Compilation:
    """One compilation: what the stages share."""

    def __init__(
        self,
        checkpoint: str | Path,
        stages: StageCache,
        data: KeypointDataset,
        options: CompileOptions,
        *,
        note: Note,
        progress: Progress,
    ) -> None:
        from hhrnet_deploy.model.checkpoint import path_of

        self.checkpoint = checkpoint
        self.stages, self.data, self.options = stages, data, options
        self.note, self.progress = note, progress
        spec = options.spec
        target = find_target(spec.target)
        target.check_precision(spec.precision or "fp32")
        target.check_ready(spec.tensorrt)
        reason = target.cannot_run_here()
        if reason is not None:
            raise InputError(
                f"An engine for {target.name} cannot be evaluated here: {reason}",
                hint="Build it with `hhrnet build`, and compile where it runs.",
            )
        weights = path_of(checkpoint)
        if not weights.is_file():
            raise InputError(f"There is no checkpoint {weights}.", hint="Give a file, or default for the shipped one.")
        self.weights_sha256 = sha256_of(weights)
        self.versions = package_versions()
        self.target_version = target.version()
        self.calibration = calibration_identity(spec)
        note(f"hashing {len(data)} images")
        self.data_identity = data_identity(data)

    def run(self) -> Compiled:
        onnx = self._export()
        if self.calibration is not None and self.options.spec.ranges is None:
            self._calibrate(onnx)
        build = self._build(onnx)
        bundle = read_bundle(self._path(ENGINE))
        config = self._config(bundle)
        evaluation = self._evaluate(build, config)
        bench = self._bench(build, config)
        self._report(bundle, evaluation, bench)
        return Compiled(
            folder=self.stages.root,
            onnx=self._path(HEADS),
            bundle=bundle.folder,
            report=self._path(REPORT),
            evaluation=_EVALUATION.validate_python(evaluation.result["report"]),
            bench=None if bench is None else _BENCH.validate_python(bench.result),
            stages=self.stages.runs,
        )

    def _path(self, name: str) -> Path:
        return self.stages.root / name

    def _stage(
        self, name: str, inputs: dict[str, Any], work: Callable[[], Any], outputs: tuple[Path, ...] = ()
    ) -> StageRun:
        inputs = {**inputs, "versions": self.versions}
        found = self.stages.find(name, inputs)
        if found is not None:
            self.note(f"{name}: from cache")
            return found
        self.note(f"{name}: running")
        run = self.stages.run(name, inputs, work, outputs)
        self.note(f"{name}: {run.record.seconds:.1f} s")
        return run

    def _export(self) -> StageRun:
        spec, path = self.options.spec, self._path(HEADS)
        shapes = spec.model_dump(mode="json", include={"size", "batch", "flip", "input"})

        def work() -> Any:
            report = export_onnx(self.checkpoint, path, preset=self.options.preset, progress=self.note, **shapes)
            return report.model_dump(mode="json")

        inputs = {"checkpoint": self.weights_sha256, "preset": preset_identity(self.options.preset), **shapes}
        return self._stage("export", inputs, work, (path,))

    def _calibrate(self, onnx: StageRun) -> StageRun:
        """The figures go to the calibration cache, where the build finds them; a killed calibration goes on there."""
        from hhrnet_deploy.pipeline.calibration import calibrate_model

        def work() -> Any:
            report = calibrate_model(
                self._path(HEADS), self.options.spec.calibration, note=self.note, bar=self.progress
            )
            return {"images": report.images, "set": report.set_name}

        return self._stage("calibrate", {"onnx": onnx.record.outputs, "calibration": self.calibration}, work)

    def _build(self, onnx: StageRun) -> StageRun:
        spec, path = self.options.spec, self._path(ENGINE)

        limit = self.options.max_ap_drop if spec.precision == "int8" else None

        def build(budget: BudgetRequest | None) -> Any:
            report = build_engine(
                self._path(HEADS), path, spec=spec, progress=self.note, bar=self.progress, budget=budget
            )
            return report.model_dump(mode="json")

        def work() -> Any:
            if limit is None:
                return build(None)
            try:
                return build(BudgetRequest(limit, self.data, self.options.skeleton, self.options.flip))
            except GateFailedError as error:
                # The report of the plain engine shows what goes wrong; the caller's gate fails afterwards.
                self.note(f"{error.fact} Going on with every layer in int8.")
                return build(None)

        inputs = {
            "onnx": onnx.record.outputs,
            "calibration": self.calibration,
            "budget": None if limit is None else [limit, self.data_identity, self.options.flip],
            "spec": spec.model_dump(mode="json"),
            "device": find_target(spec.target).device(),
            "target_version": self.target_version,
        }
        return self._stage("build", inputs, work, (path,))

    def _config(self, bundle: Bundle) -> InferenceConfig:
        own = None if self.options.skeleton is None else self.data.skeleton
        decode = DecodeConfig(flip=self.options.flip, skeleton=own)
        return InferenceConfig(short_side=bundle.manifest.short_side, decode=bundle.manifest.decode or decode)

    def _evaluate(self, build: StageRun, config: InferenceConfig) -> StageRun:
        inputs = {
            "engine": build.record.outputs,
            "reference": self.weights_sha256,
            "preset": preset_identity(self.options.preset),
            "data": self.data_identity,
            "settings": config.model_dump(mode="json"),
            "machine": machine(),
        }
        # Named by what it depends on, so that an earlier run's people are never continued under other settings. The
        # evaluation itself also compares the model's name.
        run = [inputs, self.versions, tool_identity(), Path(self.checkpoint).name]
        people = self.stages.folder / f"people-{digest_of(run)[:16]}.jsonl"

        def work() -> Any:
            return {"report": self._run_evaluation(people, config), "people": str(people.relative_to(self.stages.root))}

        return self._stage("evaluate", inputs, work, (people,))

    def _run_evaluation(self, people: Path, config: InferenceConfig) -> Any:
        from hhrnet_deploy.evaluate.identity import open_candidate

        for old in self.stages.folder.glob("people-*.jsonl"):
            if old != people:
                old.unlink()
        options = EvaluationOptions(partial=people, keep_partial=True, resume=True)
        engine = open_candidate(self._path(ENGINE))
        reference = open_candidate(self.checkpoint, self.options.preset)
        with self.progress("evaluating", len(self.data)) as advance:
            report = evaluate(engine, self.data, reference=reference, config=config, options=options, advance=advance)
        return _EVALUATION.dump_python(report, mode="json")

    def _bench(self, build: StageRun, config: InferenceConfig) -> StageRun | None:
        pairs, photos = self.options.pairs, [sample.path for sample in self.data[:_BENCH_PHOTOS]]
        if pairs == 0:
            return None

        def work() -> Any:
            contestants = [
                Contestant("engine", self._path(ENGINE)),
                Contestant("PyTorch", self.checkpoint, self.options.preset),
            ]
            with self.progress("timing pairs", pairs) as advance:
                return asdict(run_bench(contestants, photos, config, pairs=pairs, advance=advance))

        inputs = {
            "engine": build.record.outputs,
            "reference": self.weights_sha256,
            "data": self.data_identity,
            "settings": config.model_dump(mode="json"),
            "pairs": pairs,
            "machine": machine(),
        }
        return self._stage("bench", inputs, work)

    def _report(self, bundle: Bundle, evaluation: StageRun, bench: StageRun | None) -> StageRun:
        from hhrnet_deploy.pipeline.report import ReportInput, render

        path = self._path(REPORT)
        commands = self._commands()

        def work() -> Any:
            document = ReportInput(
                bundle=bundle,
                evaluation=_EVALUATION.validate_python(evaluation.result["report"]),
                bench=None if bench is None else _BENCH.validate_python(bench.result),
                data=self.data,
                people=self._path(evaluation.result["people"]),
                commands=commands,
                versions={
                    **self.versions,
                    f"target {self.options.spec.target}": self.target_version,
                    "machine": machine(),
                },
                hashes={"annotations": self.data_identity["annotations"], "photos": self.data_identity["photos"]},
                max_ap_drop=self.options.max_ap_drop,
                pictures=self.options.pictures,
            )
            write_text(path, render(document))
            return None

        inputs = {
            "stages": [run.key for run in self.stages.runs],
            "commands": commands,
            "max_ap_drop": self.options.max_ap_drop,
            "pictures": self.options.pictures,
        }
        return self._stage("report", inputs, work, (path,))

    def _commands(self) -> list[str]:
        """How to make all of it again, in one command and step by step."""
        options, spec, root = self.options, self.options.spec, self.stages.root
        preset = ["--preset", options.preset] if options.preset else []
        basic = ["--target", spec.target, "--precision", spec.precision or "fp32"]
        kind = [*basic, *quantization_words(spec), *spec.tensorrt.words()]
        calibration = [] if spec.calibration is None else ["--calibration", spec.calibration]
        engine = [*basic, *calibration] if options.engine_words is None else options.engine_words
        folder = ["--data", str(self.data.root), "--split", self.data.split]
        own = [] if options.skeleton is None else ["--skeleton", str(options.skeleton)]
        data = folder if options.data_words is None else list(options.data_words)
        flip = [] if options.flip else ["--no-flip"]
        gate = [] if options.max_ap_drop is None else ["--max-ap-drop", f"{options.max_ap_drop:g}"]
        budget = gate and spec.precision == "int8"
        checkpoint, bundle = str(self.checkpoint), str(root / ENGINE)
        lines = [
            ["compile", checkpoint, *preset, *engine, *data, *gate, *flip, "-o", str(root)],
            ["export", checkpoint, *preset, *spec.shape_words(), "-o", str(root / HEADS)],
            ["build", str(root / HEADS), *kind, *([*folder, *own, *gate] if budget else []), "-o", bundle],
            ["eval", "--engine", bundle, "--reference", checkpoint, *preset, *data, *flip, *gate],
            ["bench", bundle, checkpoint, *preset, "--images", str(self.data.image_folder), *flip],
        ]
        return [shlex.join(["hhrnet", *words]) for words in lines]
