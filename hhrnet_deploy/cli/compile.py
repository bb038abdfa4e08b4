"""``hhrnet compile``: a checkpoint to a validated engine with a report, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.compile import Compiled

_FOLDER = Path("compiled")


def compile_(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint file, or 'default' for the model that ships.")
    ] = "default",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"] | None, typer.Option(help="Default int8, or the spec's.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Library the engine is for; default tensorrt with a card, else openvino.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="COCO or CrowdPose folder; default a fixed synthetic set of 64 images.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split; default val2017, for CrowdPose test.")] = None,
    skeleton: Annotated[Path | None, typer.Option(help="Skeleton file of joints of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate only the first images.", min=1)] = None,
    max_ap_drop: Annotated[
        float | None,
        typer.Option(
            help="Exit with 3 when AP is further below the reference's; 0.003 is 0.3 AP points.", min=0, max=1
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for everything; default compiled/<checkpoint>-<target>-<precision>."
        ),
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="Engine spec: a file, or the name of one that ships (cpu, onnxruntime, ...).")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images for fp16 and int8: coco:DIR[:SPLIT][:N], a folder, a manifest; default a synthetic set."
        ),
    ] = None,
    preset: options.Preset = None,
    flip: options.Flip = None,
    pairs: Annotated[int, typer.Option(help="Timed pairs of engine and PyTorch; 0 leaves the timing out.", min=0)] = 10,
    pictures: Annotated[int, typer.Option(help="Photos in the report, those that differ most.", min=0)] = 6,
    as_json: options.AsJson = False,
) -> None:
    """Export, calibrate, build, evaluate beside PyTorch, time, and write report.html.

    Every stage is kept with the hashes of its inputs: a second run does only what changed, and a run that was
    interrupted goes on where it stopped. With --max-ap-drop the report is written either way, and the command exits
    with 3 when the drop is larger.

    Examples:

      hhrnet compile

      hhrnet compile pose_higher_hrnet_w32_512.pth --precision int8 --data coco --max-ap-drop 0.003

      hhrnet compile my.pth --precision fp32 --target onnxruntime -o compiled/mine
    """
    from hhrnet_deploy.cli.eval import open_data, print_report
    from hhrnet_deploy.evaluate.report import check_gate
    from hhrnet_deploy.pipeline.compile import CompileOptions, compile_checkpoint
    from hhrnet_deploy.pipeline.spec import EngineSpec, load_spec

    wanted = (EngineSpec() if spec is None else load_spec(spec)).with_changes(
        target=target, precision=precision, calibration=calibration
    )
    if wanted.precision is None:
        wanted = wanted.with_changes(precision="int8")
    dataset = open_data(data, split, skeleton)[:limit]
    folder = output or _FOLDER / f"{Path(checkpoint).stem}-{wanted.target}-{wanted.precision}"
    made = compile_checkpoint(
        checkpoint,
        folder,
        dataset,
        CompileOptions(
            spec=wanted,
            preset=preset,
            flip=flip is not False,
            skeleton=skeleton,
            max_ap_drop=max_ap_drop,
            pairs=pairs,
            pictures=pictures,
            data_words=tuple(_words(data=data, split=split, skeleton=skeleton, limit=limit)),
            engine_words=None
            if spec is None
            else tuple(_words(spec=spec, target=target, precision=wanted.precision, calibration=calibration)),
        ),
        note=console.info,
        progress=console.progress,
    )
    if as_json:
        console.emit_json(made.as_document())
    else:
        print_report(made.evaluation)
        _print(made)
    if max_ap_drop is not None:
        check_gate(made.evaluation, max_ap_drop)


def _words(**given: object) -> list[str]:
    """Options as they were typed; those left out stay out."""
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def _print(made: Compiled) -> None:
    cached = [run.name for run in made.stages if run.cached]
    done = [f"{run.name} {run.record.seconds:.1f} s" for run in made.stages if not run.cached]
    console.out.print(f"stages from cache: {', '.join(cached) or 'none'}; done now: {', '.join(done) or 'none'}")
    for name, path in (("engine", made.bundle), ("report", made.report)):
        console.out.print(f"{name}: {path}", markup=False)
