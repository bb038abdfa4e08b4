"""``hhrnet train``: run a recipe."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.training import TrainingReport
    from hhrnet_deploy.train.records import StepRecord, ValidationRecord


def train(
    recipe: Annotated[
        str, typer.Option(help="Recipe: a file, or the name of one that ships (w32_512, small_256, quick, ...).")
    ],
    data: Annotated[
        Path | None, typer.Option(help="COCO or CrowdPose folder to train and validate on, instead of the recipe's.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value; may be repeated.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Weights to start from: ImageNet HRNet, any checkpoint, or 'default' (the shipped model)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; default training/runs/<recipe>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a network, or fine-tune one, as a recipe says.

    The folder of the run gets checkpoints, metrics.jsonl, TensorBoard events, a picture at every validation and a
    summary page. Several processes train together under torchrun. Ctrl-C and SIGTERM end the step, write the
    checkpoint and leave with 130.

    Examples:

      hhrnet train --recipe w32_512 --data coco --init hrnet_w32-36af842e.pth

      hhrnet train --recipe quick --set budget_minutes=5 -o quick

      hhrnet train --recipe w32_512 --data coco --resume

      torchrun --nproc_per_node 4 --no-python hhrnet train --recipe w48_640 --data coco
    """
    from hhrnet_deploy.pipeline.training import TrainingOptions
    from hhrnet_deploy.pipeline.training import train as run_recipe
    from hhrnet_deploy.train.recipe import load_recipe

    chosen = load_recipe(recipe, tuple(settings or ()))
    folder = output or Path("training") / "runs" / Path(recipe).stem
    report = run_recipe(
        chosen,
        TrainingOptions(folder=folder, data=data, init=init, resume=resume),
        watchers=(_Lines(),),
        say=console.info,
    )
    if report is None:  # rank 0 prints
        return
    if as_json:
        found = asdict(report)
        console.emit_json({name: str(value) if isinstance(value, Path) else value for name, value in found.items()})
    else:
        _print(report)
    if not report.finished:
        raise typer.Exit(console.INTERRUPTED)


class _Lines:
    """A line on stderr with every record: where, how fast, how long still, the losses, the last AP."""

    def __init__(self) -> None:
        self._ap = ""
        self._first: tuple[float, float] | None = None

    def stepped(self, record: StepRecord) -> None:
        """Print where the run is."""
        console.info(
            f"epoch {record.epoch + 1} step {record.step}: {record.images_per_second:.1f} images/s, "
            f"{self._left(record.progress)}, lr {record.lr:.1e}, loss {record.loss:.3e} "
            f"(coarse {record.coarse_heat:.2e}, fine {record.fine_heat:.2e}, "
            f"push {record.push:.2e}, pull {record.pull:.2e}){self._ap}"
        )

    def validated(self, record: ValidationRecord) -> None:
        """Print the AP."""
        self._ap = f", AP {100 * record.ap:.1f}"
        console.info(f"validated at step {record.step}: AP {100 * record.ap:.1f}{' (best)' if record.best else ''}")

    def closed(self) -> None:
        """Nothing is held open."""

    def _left(self, progress: float) -> str:
        """Time to the end at the speed since this start."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, progress)
        began, before = self._first
        if progress <= before:
            return "time left unknown"
        minutes = (now - began) * max(1 - progress, 0) / (progress - before) / 60
        return f"{minutes / 60:.1f} h left" if minutes >= 90 else f"{minutes:.0f} min left"


def _print(report: TrainingReport) -> None:
    ap = "-" if report.best_ap is None else f"{100 * report.best_ap:.1f}"
    console.table(
        ["run", "images", "steps", "hours", "best AP"],
        [[str(report.folder), str(report.images), str(report.steps), f"{report.seconds / 3600:.2f}", ap]],
    )
    if not report.finished:
        console.info("Stopped before the end; --resume goes on.")
    if report.weights is not None:
        console.info(f"Weights: {report.weights}")
    if report.summary is not None:
        console.info(f"Summary: {report.summary}")
