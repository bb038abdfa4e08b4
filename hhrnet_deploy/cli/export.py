"""``hhrnet export``: a checkpoint to an ONNX file, compared with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.export.exporting import ExportReport
    from hhrnet_deploy.targets.parity import Parity


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
    as_json: options.AsJson = False,
) -> None:
    """Export a checkpoint to ONNX and compare the file with PyTorch in ONNX Runtime.

    The input is called image, the outputs coarse and fine (and coarse_flipped and fine_flipped with --flip). A graph
    that differs from PyTorch is not written, and the command exits with 3.

    Examples:

      hhrnet export

      hhrnet export pose_higher_hrnet_w32_512.pth --preset w32_512 -o heads.onnx

      hhrnet export my.pth --size 512x704 --flip
    """
    from hhrnet_deploy.export.exporting import export_onnx
    from hhrnet_deploy.export.options import parse_batch

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
        images=images,
        progress=console.info,
    )
    if as_json:
        console.emit_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _print(report: ExportReport) -> None:
    print_parity(report.parity)
    conventions = report.options
    size = "any size" if conventions.size is None else f"{conventions.size[0]}x{conventions.size[1]} (height x width)"
    console.out.print(
        f"{report.path}: {report.preset}, {size}, {report.nodes} nodes, {report.bytes / 1e6:.1f} MB, "
        f"{report.seconds:.0f} s",
        markup=False,
    )


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
