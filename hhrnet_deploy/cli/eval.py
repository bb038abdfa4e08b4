"""``hhrnet eval``: AP of an engine or a checkpoint, alone or beside a reference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.errors import InputError

if TYPE_CHECKING:
    from hhrnet_deploy.config import InferenceConfig
    from hhrnet_deploy.data.coco import KeypointDataset
    from hhrnet_deploy.evaluate.report import EvaluationReport, ModelReport
    from hhrnet_deploy.targets.runner import RunnerInfo

_ENGINES = Path("engines")
_DEFAULT_DATA = "synthetic_demo_64"

Decoder = Literal["native", "reference"]


def eval_(
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Checkpoint or ONNX file, or 'default' for the shipped model.")
    ] = None,
    engine: Annotated[Path | None, typer.Option(help="Engine bundle; default the newest in ./engines.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Checkpoint ('default': the shipped one), ONNX file or engine to compare with.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="COCO or CrowdPose folder; default a fixed synthetic set of 64 images.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split; default val2017, for CrowdPose test.")] = None,
    skeleton: Annotated[Path | None, typer.Option(help="Skeleton file of joints of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.", min=1)] = None,
    max_ap_drop: Annotated[
        float | None,
        typer.Option(
            help="Exit with 3 when AP is further below the reference's; 0.003 is 0.3 AP points.", min=0, max=1
        ),
    ] = None,
    preset: options.Preset = None,
    size: options.Size = None,
    flip: options.Flip = None,
    scales: options.Scales = "1",
    max_long_side: options.MaxLongSide = 4096,
    detection_threshold: options.DetectionThreshold = None,
    tag_threshold: options.TagThreshold = None,
    nms_kernel: options.NmsKernel = None,
    max_people: options.MaxPeople = None,
    adjust: options.Adjust = None,
    refine: options.Refine = None,
    project: options.Project = None,
    use_detection_val: options.UseDetectionVal = None,
    ignore_too_much: options.IgnoreTooMuch = None,
    decoder: Annotated[Decoder, typer.Option(help="The compiled decoder or the readable one; same people.")] = "native",
    batch: options.Batch = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder for the people in COCO's results format.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that was interrupted.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure AP of an engine or a checkpoint, alone or beside a reference on the same images.

    Without --engine and --checkpoint the newest bundle in ./engines is taken, else the model that ships. With a
    reference the table has both rows, the drop with a 95% interval (paired bootstrap over images), the AP with the
    reference's people taken as ground truth, and the number of images whose people differ. After Ctrl-C, --resume
    continues. Splits without annotations (test-dev2017) get a results file and no AP.

    Examples:

      hhrnet eval

      hhrnet eval --checkpoint pose_higher_hrnet_w32_512.pth --data coco --scales 0.5,1,2

      hhrnet eval --engine engines/int8 --reference default --data coco --max-ap-drop 0.003
    """
    from hhrnet_deploy.evaluate.identity import open_candidate
    from hhrnet_deploy.evaluate.report import check_gate
    from hhrnet_deploy.evaluate.run import EvaluationOptions, evaluate

    if checkpoint is not None and engine is not None:
        raise typer.BadParameter("give --checkpoint or --engine, not both; --reference takes the other one")
    if max_ap_drop is not None and reference is None:
        raise typer.BadParameter("--max-ap-drop needs a --reference to compare with")
    chosen = _subject(checkpoint, engine)
    dataset = open_data(data, split, skeleton)
    subject = open_candidate(chosen, preset)
    against = None if reference is None else open_candidate(reference, preset)
    given = {
        "flip": flip,
        "detection_threshold": detection_threshold,
        "tag_threshold": tag_threshold,
        "nms_kernel": nms_kernel,
        "max_people": max_people,
        "adjust": adjust,
        "refine": refine,
        "project": project,
        "use_detection_val": use_detection_val,
        "ignore_too_much": ignore_too_much,
        "skeleton": None if skeleton is None else dataset.skeleton,
    }
    info = subject.runner.info
    config = options.inference_config(
        size or info.short_side, scales=scales, max_long_side=max_long_side, decode=options.decode_settings(info, given)
    )
    if against is not None:
        _announce_size(against.runner.info, config.short_side)
    kinds = [candidate.runner.info.kind for candidate in (subject, against) if candidate is not None]
    options.tell_unused_settings(preset, has_checkpoint="checkpoint" in kinds)
    if as_json:
        console.info(_settings(config))
    output, partial = _files(dataset, output)
    if partial is not None:
        _announce_partial(partial, resume)
    wanted = EvaluationOptions(decoder=decoder, limit=limit, batch=batch, partial=partial, resume=resume, output=output)
    total = min(len(dataset), limit or len(dataset))
    try:
        with console.progress("evaluating", total) as advance:
            report = evaluate(subject, dataset, reference=against, config=config, options=wanted, advance=advance)
    except KeyboardInterrupt:
        if partial is not None and partial.is_file():
            console.info(f"interrupted; the results so far are in {partial}: repeat the command with --resume")
        raise
    if as_json:
        console.emit_json(report.as_document())
    else:
        print_report(report)
        console.out.print(_settings(config), markup=False)
    if report.results_file is not None:
        console.info(f"people in COCO's results format: {report.results_file}")
    if max_ap_drop is not None:
        check_gate(report, max_ap_drop)


def open_data(data: Path | None, split: str | None, skeleton: Path | None) -> KeypointDataset:
    """The data set that was asked for, or the fixed synthetic one, which is then named."""
    from hhrnet_deploy.data.coco import open_dataset
    from hhrnet_deploy.data.synth import ensure_synthetic

    if data is None:
        with console.progress(f"drawing {_DEFAULT_DATA}", None) as advance:
            data = ensure_synthetic(_DEFAULT_DATA, lambda done, _: advance(done))
        console.info(f"data: the synthetic set {_DEFAULT_DATA} ({data}); --data takes a COCO folder")
    return open_dataset(data, split, skeleton)


def _subject(checkpoint: str | None, engine: Path | None) -> str | Path:
    if checkpoint is not None:
        return checkpoint
    if engine is not None:
        if not (engine / "manifest.json").is_file():
            raise InputError(
                f"{engine} is no engine bundle: it has no manifest.json.",
                hint="`hhrnet build` makes one; --checkpoint takes checkpoints and ONNX files.",
            )
        return engine
    # Not those that start with a dot: they are being written.
    newest = max(_ENGINES.glob("[!.]*/manifest.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        console.info("no engine in ./engines: evaluating the model that ships")
        return "default"
    console.info(f"evaluating {newest.parent}, the newest engine in ./engines")
    return newest.parent


def _files(dataset: KeypointDataset, output: Path | None) -> tuple[Path | None, Path | None]:
    """The results file, if one is wanted or all there is to get, and the partial results beside it.

    Where no file is wanted and this folder takes none, there are no partial results.
    """
    from hhrnet_deploy.evaluate.results import results_name
    from hhrnet_deploy.evaluate.run import partial_path

    name = results_name(dataset.split)
    if output is not None and (output.is_dir() or output.suffix != ".json"):
        output = output / name
    if output is None and not dataset.has_annotations:
        output = Path(name)
    if output is None and not os.access(Path.cwd(), os.W_OK):
        console.info("this folder cannot be written: an interruption cannot be resumed")
        return None, None
    return output, partial_path(output or Path(name))


def _announce_size(reference: RunnerInfo, short_side: int) -> None:
    if reference.short_side != short_side:
        console.info(
            f"{reference.name} was made for a short side of {reference.short_side}; both models run at {short_side} "
            "(--size)"
        )


def _announce_partial(partial: Path, resume: bool) -> None:
    if partial.is_file() and not resume:
        console.info(f"{partial} is of a run that has not ended; without --resume this one starts from the beginning")
    if resume and not partial.is_file():
        console.info(f"there are no partial results {partial}: starting from the beginning")


def print_report(report: EvaluationReport) -> None:
    """Tables of AP and AR, the drop with its interval, and the agreement."""
    console.out.print(f"{report.images} images, {report.data}", markup=False)
    names = list(report.subject.metrics)
    # Two tables, because ten figures in a row do not fit 80 columns.
    for part in (names[: len(names) // 2], names[len(names) // 2 :]):
        if part:
            console.table(["model", *part], _rows(report, part))
    if not names:
        console.out.print("The split has no annotations: no AP; the results file can be sent to the COCO server.")
    for model in (report.subject, report.reference):
        if model is not None:
            console.out.print(f"{model.name}: {model.people} people{_broken(model)}", markup=False)
    if report.interval is not None:
        console.out.print(
            f"AP drop {_number((report.drop or {}).get('AP'), sign=True)}, {report.interval.confidence:.0%} interval "
            f"[{report.interval.low:+.4f}, {report.interval.high:+.4f}] ({report.interval.resamples} paired resamples "
            "of the images)",
            markup=False,
        )
    if report.reference is not None and report.reference.metrics.get("AP") == 0:
        console.info(f"{report.reference.name} has AP 0 on these images: no drop can show, whatever the engine does")
    if report.agreement is not None:
        console.out.print(
            f"agreement AP {_number(report.agreement.ap)} (the reference's people as ground truth); different people "
            f"in {report.agreement.images_with_different_people} of {report.images} images",
            markup=False,
        )


def _rows(report: EvaluationReport, names: list[str]) -> list[list[str]]:
    models = [model for model in (report.subject, report.reference) if model is not None]
    rows = [[f"{model.name} ({model.kind})", *(_number(model.metrics[name]) for name in names)] for model in models]
    if report.drop is not None:
        rows.append(["drop", *(_number(report.drop[name], sign=True) for name in names)])
    return rows


def _broken(model: ModelReport) -> str:
    return f", {model.broken_people} of them with NaN or infinity" if model.broken_people else ""


def _number(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.4f}"


def _settings(config: InferenceConfig) -> str:
    changed = config.decode.model_dump(exclude_defaults=True, exclude={"skeleton", "flip"})
    parts = [
        f"short side {config.short_side}",
        f"scales {', '.join(f'{scale:g}' for scale in config.scales)}",
        "flip test" if config.decode.flip else "no flip test",
        *(f"{name} {value}" for name, value in changed.items()),
    ]
    return "settings: " + "; ".join(parts)
