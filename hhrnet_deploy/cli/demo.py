"""``hhrnet demo``: the main job with the model that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.demo import Demo


def demo(
    data: Annotated[
        Path | None, typer.Option(help="COCO folder to evaluate on; default a fixed synthetic set of 64 images.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of that folder; default val2017.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything it makes.")] = Path("demo"),
    as_json: options.AsJson = False,
) -> None:
    """Take the shipped checkpoint to an INT8 engine on this CPU and show what that costs in AP.

    Exports to ONNX, builds an OpenVINO engine, evaluates it beside the PyTorch reference, prints the table and writes
    a picture with the people of both.

    Examples:

      hhrnet demo

      hhrnet demo --data coco --output demo-coco
    """
    from hhrnet_deploy.cli.eval import open_data, print_report
    from hhrnet_deploy.pipeline.demo import run_demo

    dataset = open_data(data, split, None)
    with console.progress("evaluating", len(dataset)) as advance:
        made = run_demo(output, dataset, precision="int8", note=console.info, advance=advance)
    if as_json:
        console.emit_json(made.evaluation.as_document() | _paths(made))
        return
    print_report(made.evaluation)
    for name, path in _paths(made).items():
        console.out.print(f"{name}: {path}", markup=False)


def _paths(made: Demo) -> dict[str, str]:
    return {"onnx": str(made.onnx), "bundle": str(made.bundle), "picture": str(made.picture)}
