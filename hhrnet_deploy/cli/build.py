"""``hhrnet build``: a checkpoint or ONNX file to an engine bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.cli.budget import print_budget
from hhrnet_deploy.cli.export import print_parity

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.budget import BudgetRequest
    from hhrnet_deploy.pipeline.build import BuildReport

_TENSORRT = "TensorRT and TensorRT-RTX"


def build(
    model: Annotated[
        str, typer.Argument(help="ONNX file of hhrnet export, checkpoint, or 'default' for the model that ships.")
    ] = "default",
    target: Annotated[
        str | None,
        typer.Option(
            help="Library the engine is for: openvino, onnxruntime, tensorrt, tensorrt-rtx; default tensorrt where it "
            "and a CUDA card are found, else openvino."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"] | None, typer.Option(help="Default that of the graph.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle folder; default engines/<preset>-<target>-<precision>."),
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="Engine spec: a file, or the name of one that ships (cpu, t4, rtx4090, ...).")
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
        Literal["minmax", "percentile", "entropy", "mse", "lp"] | None,
        typer.Option(help="How int8 thresholds are chosen; default lp."),
    ] = None,
    max_ap_drop: Annotated[
        float | None,
        typer.Option(help="Largest AP drop of an int8 engine on --data; layers go back to float until it is kept."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="COCO or CrowdPose folder for --max-ap-drop; default a synthetic set.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; default val2017.")] = None,
    skeleton: Annotated[Path | None, typer.Option(help="Skeleton file of --data, for joints of your own.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos to compare on; default synthetic people.")
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Height x width per optimisation profile, 512x704,704x512, or ranges smallest:tuned:largest; default "
            "landscape and portrait up to 4:1.",
            rich_help_panel=_TENSORRT,
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Largest batch of a dynamic one; default 8.", rich_help_panel=_TENSORRT)
    ] = None,
    compute_capabilities: Annotated[
        str | None,
        typer.Option(
            help="Cards a TensorRT-RTX engine is for, 8.6,8.9; default the installed one, else all since 8.0.",
            rich_help_panel=_TENSORRT,
        ),
    ] = None,
    hardware_compatible: Annotated[
        Literal["ampere+", "same-capability"] | None,
        typer.Option(help="Run on more cards than the one that builds.", rich_help_panel=_TENSORRT),
    ] = None,
    version_compatible: Annotated[
        bool | None,
        typer.Option(
            "--version-compatible", help="Later releases of this major version open it.", rich_help_panel=_TENSORRT
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="File with kernel timings, read and updated: later builds are faster.", rich_help_panel=_TENSORRT
        ),
    ] = None,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="Limit of scratch memory in MiB.", rich_help_panel=_TENSORRT)
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="0 builds quickly, 5 searches longest; default 3.", rich_help_panel=_TENSORRT),
    ] = None,
    refit: Annotated[
        bool | None, typer.Option("--refit", help="Keep the weights replaceable.", rich_help_panel=_TENSORRT)
    ] = None,
    strip: Annotated[
        bool | None, typer.Option("--strip", help="Leave the weights out of the engine.", rich_help_panel=_TENSORRT)
    ] = None,
    tf32: Annotated[
        bool | None, typer.Option("--tf32", help="Allow TF32 in float32 layers.", rich_help_panel=_TENSORRT)
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

      hhrnet build --spec rtx4090

      hhrnet build w32.pth --target tensorrt --precision int8 --shapes 512x704,704x512 --max-batch 8
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
        budget=_budget(max_ap_drop, data, split, skeleton),
        target=target,
        precision=precision,
        size=size,
        batch=batch,
        flip=flip,
        calibration=calibration,
        ranges=ranges,
        range_method=range_method,
        input=input_,
        tensorrt={
            "shapes": shapes,
            "max_batch": max_batch,
            "compute_capabilities": compute_capabilities,
            "hardware_compatible": hardware_compatible,
            "version_compatible": version_compatible,
            "timing_cache": timing_cache,
            "workspace_mib": workspace_mib,
            "optimization_level": optimization_level,
            "refit": refit,
            "strip": strip,
            "tf32": tf32,
        },
    )
    if as_json:
        console.emit_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _print(report: BuildReport) -> None:
    manifest = report.manifest
    if manifest.parity is not None:
        print_parity(manifest.parity)
    elif manifest.parity_missing is not None:
        console.out.print(f"not compared with its ONNX graph: {manifest.parity_missing}", markup=False)
    if manifest.quantization is not None and manifest.quantization.budget is not None:
        print_budget(manifest.quantization.budget)
    console.out.print(
        f"{report.path}: {manifest.preset}, {manifest.target} {manifest.target_version}, {manifest.precision}, "
        f"{report.bytes / 1e6:.1f} MB, {report.seconds:.0f} s",
        markup=False,
    )


def _budget(
    max_ap_drop: float | None, data: Path | None, split: str | None, skeleton: Path | None
) -> BudgetRequest | None:
    from hhrnet_deploy.cli.eval import open_data
    from hhrnet_deploy.errors import InputError
    from hhrnet_deploy.pipeline.budget import BudgetRequest

    if max_ap_drop is None:
        if (data, split, skeleton) != (None, None, None):
            raise InputError("--data, --split and --skeleton say where --max-ap-drop is measured; it is missing.")
        return None
    return BudgetRequest(max_ap_drop, open_data(data, split, skeleton), skeleton)
