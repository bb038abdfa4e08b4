"""The main job in one go: checkpoint -> ONNX -> engine -> AP beside the reference -> a picture of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.data.images import read_image, write_picture
from hhrnet_deploy.evaluate.report import EvaluationReport
from hhrnet_deploy.evaluate.run import EvaluationOptions, evaluate
from hhrnet_deploy.export.exporting import export_onnx
from hhrnet_deploy.files import require_folder
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.filters import PeopleFilter
from hhrnet_deploy.pipeline.pose import Pose

Image = npt.NDArray[np.uint8]

CHECKPOINT = "default"
_TARGET = "openvino"
_PICTURES = 3
# Photos with more annotated people than this are too busy to compare by eye.
_MOST_PEOPLE = 6
_DRAWN_SCORE = 0.15


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        onnx: the exported graph.
        bundle: the engine.
        evaluation: engine and PyTorch reference on the same images.
        picture: people of both, side by side.
    """

    onnx: Path
    bundle: Path
    evaluation: EvaluationReport
    picture: Path


def run_demo(
    folder: Path,
    data: KeypointDataset,
    *,
    precision: str,
    note: Callable[[str], None],
    advance: Callable[[int, str], None],
) -> Demo:
    """Export, build, evaluate and draw into ``folder`` with the model that ships, on the CPU.

    Args:
        folder: gets ``heads.onnx``, ``engine-PRECISION/`` and ``people.png``; made when needed.
        data: annotated images.
        precision: of the engine.
        note: called with a line per step.
        advance: called with (images done, remark) while evaluating.

    Raises:
        HHRNetError: as the steps it runs.
    """
    onnx, bundle, picture = folder / "heads.onnx", folder / f"engine-{precision}", folder / "people.png"
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note("1/4 exporting the shipped checkpoint to ONNX")
    export_onnx(CHECKPOINT, onnx, progress=note)
    note(f"2/4 building the {precision} engine for {_TARGET}")
    build_engine(onnx, bundle, target=_TARGET, precision=precision, progress=note)
    note(f"3/4 evaluating the engine and the PyTorch reference on {len(data)} images")
    report = evaluate(bundle, data, reference=CHECKPOINT, options=EvaluationOptions(), advance=advance)
    note("4/4 drawing the people of both")
    write_picture(picture, compare_by_eye(bundle, CHECKPOINT, _choose(data)))
    return Demo(onnx, bundle, report, picture)


def compare_by_eye(engine: Path, reference: str, photos: list[Path]) -> Image:
    """The people of the reference (left) and of the engine (right) in each photo, one row per photo."""
    from hhrnet_deploy.visualize.draw import draw_people
    from hhrnet_deploy.visualize.side_by_side import side_by_side

    keep = PeopleFilter(min_score=_DRAWN_SCORE)
    images = [read_image(path) for path in photos]
    drawn: list[list[Image]] = []
    for model in (reference, engine):
        with Pose.open(model, keep=keep) as pose:
            found = pose.predict(images)
            drawn.append([draw_people(i, p, pose.skeleton) for i, p in zip(images, found, strict=True)])
    titles = ("PyTorch reference", engine.name)
    return _stacked([side_by_side(pair, titles) for pair in zip(*drawn, strict=True)])


def _choose(data: KeypointDataset) -> list[Path]:
    """The photos with the most annotated joints among those that are not too busy; the first ones where none fits."""

    def worth(number: int) -> tuple[int, int]:
        joints = data.joints(data[number])
        people = int((joints[:, :, 2] > 0).any(axis=1).sum())
        return (int((joints[:, :, 2] > 0).sum()) if people <= _MOST_PEOPLE else 0, -number)

    best = sorted(range(len(data)), key=worth, reverse=True)[:_PICTURES]
    return [data[number].path for number in sorted(best)]


def _stacked(rows: list[Image]) -> Image:
    """Rows of different widths under each other on white."""
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), mode="constant", constant_values=250) for row in rows
    ]
    return np.concatenate(padded)
