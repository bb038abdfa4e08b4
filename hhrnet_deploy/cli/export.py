"""``hhrnet export``: a checkpoint to an ONNX file, compared with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import require_folder

if TYPE_CHECKING:
    from hhrnet_deploy.config import DecodeConfig
    from hhrnet_deploy.export.exporting import ExportReport
    from hhrnet_deploy.targets.parity import Parity
    from hhrnet_deploy.targets.trt_options import TensorRtOptions

_PEOPLE, _TRITON = "Decoding inside the graph", "Triton"


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint file, or 'default' for the model that ships.")
    ] = "default",
    preset: options.Preset = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")] = Path("heads.onnx"),
    size: Annotated[
        str | None, typer.Option(help="Height x width in pixels, 512x704 or 512 (square), for a fixed size.")
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Any height and width; the default without --size.")
    ] = False,
    batch: Annotated[
        str | None, typer.Option(help="Number of images, or dynamic; default 1 for a fixed size, else dynamic.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Run the mirrored images inside the graph too.")] = False,
    input_: Annotated[
        Literal["uint8", "float"],
        typer.Option("--input", help="uint8: (N, H, W, 3) RGB pixels; float: (N, 3, H, W), normalised."),
    ] = "uint8",
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 15 to 20.")] = 17,
    simplify: Annotated[bool, typer.Option("--simplify/--no-simplify", help="Fold and fuse with onnxsim.")] = True,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos to compare on; default synthetic people.")
    ] = None,
    decode: Annotated[
        Literal["heads", "plugin"],
        typer.Option(
            help="heads: the network's outputs; plugin: people, found inside the graph by ops that only TensorRT runs.",
            rich_help_panel=_PEOPLE,
        ),
    ] = "heads",
    detection_threshold: options.DetectionThreshold = None,
    tag_threshold: options.TagThreshold = None,
    nms_kernel: options.NmsKernel = None,
    max_people: options.MaxPeople = None,
    adjust: options.Adjust = None,
    refine: options.Refine = None,
    project: options.Project = None,
    use_detection_val: options.UseDetectionVal = None,
    ignore_too_much: options.IgnoreTooMuch = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Model repository to write a Triton model into: config.pbtxt, the plan's folder and the commands that "
            "build the plan.",
            rich_help_panel=_TRITON,
        ),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Height x width per optimisation profile of the plan, 512x704,704x512, or smallest:tuned:largest; "
            "default landscape and portrait up to 4:1.",
            rich_help_panel=_TRITON,
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Largest batch of the plan; default 8.", rich_help_panel=_TRITON)
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Export a checkpoint to ONNX and compare the file with PyTorch in ONNX Runtime.

    The input is called image, the outputs coarse and fine (and coarse_flipped and fine_flipped with --flip). A graph
    that differs from PyTorch is not written, and the command exits with 3. With --decode plugin the outputs are
    keypoints, scores, count, joint_tags and person_tags; the settings of decoding are fixed in the graph.

    Examples:

      hhrnet export

      hhrnet export pose_higher_hrnet_w32_512.pth --preset w32_512 -o heads.onnx

      hhrnet export my.pth --size 512x704 --flip

      hhrnet export my.pth --decode plugin --flip -o people.onnx

      hhrnet export my.pth --triton models --max-batch 16
    """
    from hhrnet_deploy.export.exporting import export_onnx
    from hhrnet_deploy.export.options import parse_batch

    settings = {
        "detection_threshold": detection_threshold,
        "tag_threshold": tag_threshold,
        "nms_kernel": nms_kernel,
        "max_people": max_people,
        "adjust": adjust,
        "refine": refine,
        "project": project,
        "use_detection_val": use_detection_val,
        "ignore_too_much": ignore_too_much,
    }
    report = export_onnx(
        checkpoint,
        output,
        preset=preset,
        size=size,
        dynamic=dynamic or None,
        batch=None if batch is None else parse_batch(batch) or "dynamic",
        flip=flip,
        input=input_,
        opset=opset,
        simplify=simplify,
        decode=_decode(decode, settings),
        triton=triton,
        triton_options=_triton_options(triton, shapes, max_batch),
        images=images,
        progress=console.info,
    )
    if as_json:
        console.emit_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _decode(kind: str, given: dict[str, Any]) -> DecodeConfig | None:
    if kind == "plugin":
        return options.decode_config(given)
    typed = next((name for name, value in given.items() if value is not None), None)
    if typed is not None:
        raise InputError(
            f"--{typed.replace('_', '-')} is fixed in a graph that decodes; this one returns heads.",
            hint="Add --decode plugin, or give the setting to hhrnet eval.",
        )
    return None


def _triton_options(triton: Path | None, shapes: str | None, max_batch: int | None) -> TensorRtOptions | None:
    from hhrnet_deploy.targets.trt_options import TensorRtOptions

    if triton is None:
        if shapes is not None or max_batch is not None:
            raise InputError("--shapes and --max-batch belong to the plan of --triton; it is missing.")
        return None
    require_folder(triton, "--triton")
    try:
        return TensorRtOptions(shapes=shapes or (), max_batch=max_batch)
    except ValidationError as error:
        raise InputError(f"--shapes: {str(error.errors()[0]['msg']).removeprefix('Value error, ')}.") from error


def _print(report: ExportReport) -> None:
    print_parity(report.parity)
    conventions = report.options
    size = "any size" if conventions.size is None else f"{conventions.size[0]}x{conventions.size[1]} (height x width)"
    console.out.print(
        f"{report.path}: {report.preset}, {size}, {report.nodes} nodes, {report.bytes / 1e6:.1f} MB, "
        f"{report.seconds:.0f} s",
        markup=False,
    )
    if report.triton is not None:
        console.out.print(
            f"{report.triton.config}: the plan goes to {report.triton.plan}; on the card that serves it:", markup=False
        )
        for command in report.triton.commands:
            console.out.print(f"  {command}", markup=False, soft_wrap=True)


def print_parity(parity: Parity) -> None:
    """A table of the differences of every output."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    rows = [
        [name, f"{d.max:.2e}", f"{d.quantile_999:.2e}", f"{d.mean:.2e}", f"{d.reference_std:.2e}"]
        for name, d in parity.outputs.items()
    ]
    console.table(
        ["output", "max", "99.9 %", "mean", "std of the output"],
        rows,
        title=f"Difference from {parity.reference} at {shapes} (N x H x W) on {parity.images}",
    )
