"""``hhrnet data``: check data sets, join CrowdPose's, make synthetic ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.data.check import CheckReport
    from hhrnet_deploy.data.findings import Finding

app = typer.Typer(name="data", help="Check data sets, join CrowdPose's, make synthetic ones.", no_args_is_help=True)


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set in the layout of COCO or CrowdPose.")],
    split: Annotated[str | None, typer.Option(help="One split, such as val2017. [default: every one there is]")] = None,
    skeleton: Annotated[str | None, typer.Option(help="coco, crowdpose or a skeleton file. [default: found]")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what is missing or broken; every image is decoded. Exit 0: usable, 1: errors were found.

    Examples:

      hhrnet data check coco

      hhrnet data check my_animals --split val --skeleton my_animals/skeleton.json
    """
    # Before OpenCV is loaded: what it logs about broken files is in the report, once and in order.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    from hhrnet_deploy.data.check import check_dataset
    from hhrnet_deploy.skeletons import find_skeleton

    chosen = None if skeleton is None else find_skeleton(skeleton)
    report = check_dataset(folder, split, chosen, progress=console.progress)
    if as_json:
        console.emit_json(_document(report))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("concat-crowdpose")
def concat_crowdpose(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The CrowdPose folder, with json/ and images/.")],
    as_json: options.AsJson = False,
) -> None:
    """Write json/crowdpose_trainval.json: train and val in one, as the official recipes train on it.

    Examples:

      hhrnet data concat-crowdpose crowd_pose
    """
    from hhrnet_deploy.data.crowdpose import concat_trainval

    written = concat_trainval(folder)
    if as_json:
        console.emit_json({"file": str(written)})
    else:
        console.out.print(f"wrote {written}", markup=False)


@app.command("synth")
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, in COCO's layout.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal sets.")] = 0,
    poses: Annotated[Path | None, typer.Option(help="A file of real poses. [default: the built-in ones]")] = None,
    split: Annotated[str, typer.Option(help="Name of the split in the folder.")] = "val2017",
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on it.")] = 1,
    as_json: options.AsJson = False,
) -> None:
    """Draw a data set of synthetic people: articulated figures with exact key points, the same for the same seed.

    Examples:

      hhrnet data synth people --images 200 --seed 7

      hhrnet eval --data people
    """
    from hhrnet_deploy.data.synth import synthesize

    with console.progress("drawing people", images) as advance:
        made = synthesize(
            out, images, seed, poses, split=split, workers=workers, progress=lambda done, _total: advance(done)
        )
    if as_json:
        console.emit_json(
            {
                "folder": str(made.folder),
                "split": split,
                "images": made.images,
                "people": made.people,
                "annotations_sha256": made.annotations_sha256,
                "pixels_sha256": made.pixels_sha256,
            }
        )
    else:
        console.out.print(f"wrote {made.images} images with {made.people} people to {made.folder}", markup=False)


def _print(report: CheckReport) -> None:
    for split in report.splits:
        counts = f"{split.images} images, {split.annotations} annotations, {split.people} people with key points"
        console.out.print(f"{split.split}: {counts}", markup=False)
    found = report.all_findings
    if found:
        console.table(
            ["problem", "severity", "split", "count"],
            [[item.problem.title, item.problem.severity, split or "-", str(item.count)] for split, item in found],
        )
    for name, item in found:
        console.out.print(f"{name + ': ' if name else ''}{item.problem.title}:", markup=False)
        for example in item.examples:
            console.out.print(f"  {example}", markup=False)
        if item.count > len(item.examples):
            console.out.print(f"  and {item.count - len(item.examples)} more", markup=False)
    errors, warnings = report.count("error"), report.count("warning")
    verdict = "usable" if report.ok else "not usable as it is"
    console.out.print(f"{report.root}: {verdict} ({errors} errors, {warnings} warnings)", markup=False)


def _document(report: CheckReport) -> dict[str, Any]:
    return {
        "folder": str(report.root),
        "ok": report.ok,
        "errors": report.count("error"),
        "warnings": report.count("warning"),
        "findings": [_finding(item) for item in report.findings],
        "splits": [
            {
                "split": split.split,
                "annotation_file": str(split.annotation_file),
                "images": split.images,
                "annotations": split.annotations,
                "people": split.people,
                "findings": [_finding(item) for item in split.findings],
            }
            for split in report.splits
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "problem": finding.problem.name.lower().replace("_", "-"),
        "title": finding.problem.title,
        "severity": finding.problem.severity,
        "count": finding.count,
        "examples": list(finding.examples),
    }
