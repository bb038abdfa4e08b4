"""``hhrnet calibrate``: measure the ranges of a network's activations on a set of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.calibration import CalibrationReport

_SHOWN = 12


def calibrate(
    model: Annotated[
        str, typer.Argument(help="ONNX file of hhrnet export, checkpoint, or 'default' for the model that ships.")
    ] = "default",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="coco:DIR[:SPLIT][:N], folder DIR[:N], shipped manifest, or FILE.json[:DIR]; default a synthetic set."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of the figures (.npz); default in the cache.")
    ] = None,
    write_manifest: Annotated[
        Path | None, typer.Option(help="Also write the manifest (.json) that names exactly these images.")
    ] = None,
    method: Annotated[
        Literal["minmax", "percentile", "entropy", "mse", "lp"],
        typer.Option(help="How thresholds are chosen, in the table."),
    ] = "lp",
    preset: options.Preset = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the ranges of a network's activations on a set of images.

    Images go through the real warp at their own aspect ratios. A run that was stopped goes on where it was, and
    `hhrnet build --precision int8` with the same model and set finds the figures by itself.

    Examples:

      hhrnet calibrate

      hhrnet calibrate pose_higher_hrnet_w32_512.pth --calibration coco:data/coco:train2017:128

      hhrnet calibrate heads.onnx --calibration photos/ --write-manifest calibration/mine.json
    """
    from hhrnet_deploy.pipeline.calibration import calibrate_model

    report = calibrate_model(
        model,
        calibration,
        output=output,
        write_manifest=write_manifest,
        method=method,
        preset=preset,
        note=console.info,
        bar=console.progress,
    )
    if as_json:
        console.emit_json(report.model_dump(mode="json"))
    else:
        _show(report)


def _show(report: CalibrationReport) -> None:
    rows = [
        [item.tensor, f"{item.low:.4g}", f"{item.high:.4g}", f"{item.threshold:.4g}"]
        for item in report.tensors[:_SHOWN]
    ]
    console.table(("tensor", "lowest", "highest", report.method), rows, title="Largest ranges")
    resumed = f", the first {report.resumed_from} of an earlier run" if report.resumed_from else ""
    console.out.print(
        f"{len(report.tensors)} tensors on {report.images} images of {report.set_name}{resumed}: {report.path}",
        markup=False,
    )
