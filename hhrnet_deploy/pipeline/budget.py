"""The accuracy budget of a build: AP measured through the target itself, layers given back until it fits."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.evaluate.run import evaluate
from hhrnet_deploy.pipeline.progress import Bar, Note, bar_or_nothing
from hhrnet_deploy.quantize.budget import Limit, meet_budget
from hhrnet_deploy.quantize.calibration_set import CalibrationSet
from hhrnet_deploy.quantize.family import Family
from hhrnet_deploy.quantize.sensitivity import measure_sensitivity
from hhrnet_deploy.quantize.typed import Source, TypedGraph, save_graph
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.onnxruntime import OnnxRuntimeRunner
from hhrnet_deploy.targets.quantization import LayerSensitivity
from hhrnet_deploy.targets.runner import MULTIPLE, Runner
from hhrnet_deploy.targets.target import BuildSettings, RunOptions, Target

# Sensitivity is compared between layers of one network: a few small images rank them as well as many large ones.
_IMAGES, _SIDE = 2, 256


@dataclass(frozen=True)
class BudgetRequest:
    """``--max-ap-drop``, ``--data`` and ``--skeleton``.

    Attributes:
        max_ap_drop: the largest drop in AP against the float32 graph, 0 to 1.
        data: what it is measured on.
        skeleton: the file that ``data`` was opened with; its joints are then those of the model, too.
        flip: measure with the flip test, as published; ``hhrnet compile --no-flip`` evaluates without it.
    """

    max_ap_drop: float
    data: KeypointDataset
    skeleton: Path | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_ap_drop <= 1:
            raise InputError(f"The largest AP drop has to be between 0 and 1, got {self.max_ap_drop}.")

    def words(self) -> list[str]:
        """The command-line options that ask for it."""
        where = ["--data", str(self.data.root), "--split", self.data.split]
        own = [] if self.skeleton is None else ["--skeleton", str(self.skeleton)]
        return ["--max-ap-drop", str(self.max_ap_drop), *where, *own]


@dataclass(frozen=True)
class BudgetSearch:
    """Everything a search for the layers in higher precision needs."""

    source: Source
    graph: Graph
    target: Target
    family: Family
    calibration: CalibrationSet
    request: BudgetRequest

    def run(self, *, note: Note, bar: Bar | None) -> TypedGraph:
        """The int8 graph that keeps the budget.

        Raises:
            GateFailedError: none does.
        """
        request = self.request
        with tempfile.TemporaryDirectory(prefix="hhrnet-budget-") as scratch:
            folder = Path(scratch)
            note(f"measuring the float32 graph on {request.data.root} ({request.data.split})")
            reference = self._ap(self.graph, "fp32", folder / "reference", bar)
            if reference is None:
                raise GateFailedError(
                    f"The AP drop cannot be measured: {request.data.root} ({request.data.split}) has no people that "
                    "count in its AP.",
                    hint="Give annotated data with --data and --split.",
                )
            limit = Limit(request.max_ap_drop, reference, f"{request.data.root.name} ({request.data.split})")
            steps = iter(range(1 << 30))

            def validate(typed: TypedGraph) -> float | None:
                number = next(steps)
                graph = save_graph(typed, folder / f"step{number}.onnx")
                return self._ap(graph, "int8", folder / f"step{number}", bar)

            return meet_budget(self.source, self.family, limit, self._sensitivity(bar), validate, note=note)

    def _sensitivity(self, bar: Bar | None) -> tuple[LayerSensitivity, ...]:
        images = np.concatenate(list(islice(map(_centre, self.calibration.warped(self.source.short_side)), _IMAGES)))
        with bar_or_nothing(bar, "sensitivity of the layers", None) as advance:
            return measure_sensitivity(self.source, self.family, images, progress=advance)

    def _ap(self, graph: Graph, precision: str, folder: Path, bar: Bar | None) -> float | None:
        data = self.request.data
        decode = DecodeConfig(flip=self.request.flip, skeleton=None if self.request.skeleton is None else data.skeleton)
        runner = self._runner(graph, precision, folder)
        config = InferenceConfig(short_side=runner.info.short_side, decode=decode)
        with bar_or_nothing(bar, "evaluating", len(data)) as advance:
            report = evaluate(runner, data, config=config, advance=advance)
        return report.subject.metrics.get("AP")

    def _runner(self, graph: Graph, precision: str, folder: Path) -> Runner:
        """The target's own runner, or ONNX Runtime with the same graph where the target cannot run."""
        if self.target.cannot_run_here() is not None:
            return OnnxRuntimeRunner(graph.path, graph.info("the typed graph", "onnxruntime", precision), RunOptions())
        folder.mkdir()
        built = self.target.build(graph, folder, precision, BuildSettings())
        info = graph.info("the engine", self.target.name, precision)
        return self.target.runner(folder, info, dict(built.hints), RunOptions())


def _centre(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The middle square of an image (1, H, W, 3), at most 256 x 256; equal for all images of one preset."""
    side = min(_SIDE, *(length // MULTIPLE * MULTIPLE for length in pixels.shape[1:3]))
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    return pixels[:, top : top + side, left : left + side]
