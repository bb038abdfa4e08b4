"""``hhrnet build``: a checkpoint or ONNX file to an engine bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.cli.export import print_parity

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.build import BuildReport


def build(
    model: Annotated[
        str, typer.Argument(help="ONNX file of hhrnet export, checkpoint, or 'default' for the model that ships.")
    ] = "default",
    target: Annotated[
        str | None, typer.Option(help="Library the engine is for: openvino, onnxruntime; default openvino.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"] | None, typer.Option(help="Default that of the graph.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle folder; default engines/<preset>-<target>-<precision>."),
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="Engine spec: a file, or the name of one that ships (cpu, onnxruntime, ...).")
    ] = None,
    preset: options.Preset = None,
    size: Annotated[
        str | None, typer.Option(help="Height x width in pixels, 512x704 or 512 (square), for a fixed size.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Number of images, or dynamic; default 1 for a fixed size, else dynamic.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Run the mirrored images inside the engine.")
    ] = None,
    input_: Annotated[
        Literal["uint8", "float"] | None,
        typer.Option("--input", help="uint8: (N, H, W, 3) RGB pixels; float: (N, 3, H, W), normalised."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images for fp16 and int8: coco:DIR[:SPLIT][:N], a folder, a manifest; default a synthetic set."
        ),
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="File of hhrnet calibrate with the ranges of this model and set.")
    ] = None,
    range_method: Annotated[
        Literal["minmax", "percentile", "entropy", "mse"] | None, typer.Option(help="How int8 thresholds are chosen.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos to compare on; default synthetic people.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Build an engine bundle and measure it against its ONNX graph.

    A checkpoint is exported first. An engine that differs too much from its graph is not written, and the command
    exits with 3. A bundle that is there already is replaced once the new one is complete.

    Examples:

      hhrnet build

      hhrnet build heads.onnx --target onnxruntime -o engines/mine

      hhrnet build pose_higher_hrnet_w32_512.pth --spec cpu_bf16
    """
    from hhrnet_deploy.pipeline.build import build_engine
    from hhrnet_deploy.pipeline.spec import load_spec

    report = build_engine(
        model,
        output,
        spec=None if spec is None else load_spec(spec),
        preset=preset,
        images=images,
        progress=console.info,
        bar=console.progress,
        target=target,
        precision=precision,
        size=size,
        batch=batch,
        flip=flip,
        calibration=calibration,
        ranges=ranges,
        range_method=range_method,
        input=input_,
    )
    if as_json:
        console.emit_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _print(report: BuildReport) -> None:
    manifest = report.manifest
    if manifest.parity is not None:
        print_parity(manifest.parity)
    console.out.print(
        f"{report.path}: {manifest.preset}, {manifest.target} {manifest.target_version}, {manifest.precision}, "
        f"{report.bytes / 1e6:.1f} MB, {report.seconds:.0f} s",
        markup=False,
    )
