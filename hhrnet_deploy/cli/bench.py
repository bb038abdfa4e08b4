"""``hhrnet bench``: engines side by side, in pairs, stage by stage."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.errors import InputError

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.bench import BenchReport, Contestant, Row
    from hhrnet_deploy.targets.runner import RunnerInfo

_OPPONENTS = ("torch", "onnxruntime", "openvino", "official-style")


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="Engine bundles, ONNX files or checkpoints; the first is the baseline.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help=f"Opponents made from --checkpoint, comma-separated: {', '.join(_OPPONENTS)}.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint that the opponents are made from.")] = "default",
    preset: options.Preset = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos to time on; default synthetic people, fixed seed.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Timed pairs.", min=1)] = 20,
    batches: Annotated[str, typer.Option(help="Batch sizes of the throughput runs, for example 1,4,8.")] = "1",
    flip: options.Flip = None,
    scales: options.Scales = "1",
    size: options.Size = None,
    max_long_side: options.MaxLongSide = 4096,
    plot: Annotated[Path | None, typer.Option(help="Write the medians as a PNG picture.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Time models on the same photos: read, warp, network, decode, and end to end.

    Every pair runs all models on one photo in rotating order; ratios are medians over pairs, against the first
    model. official-style is PyTorch with the decoder written in NumPy. Models that would get other network inputs
    than the baseline are refused.

    Examples:

      hhrnet bench engines/int8 --against torch,official-style

      hhrnet bench engines/fp32 engines/int8 --images photos/ --batches 1,4 --plot bench.png --json
    """
    from hhrnet_deploy.pipeline.bench import Contestant, run_bench

    sizes = _whole_numbers(batches)
    with ExitStack() as stack:
        given = models or ["default"]
        contestants = [Contestant(label, model, preset) for label, model in zip(_labels(given), given, strict=True)]
        contestants += _opponents(stack, against, checkpoint, preset)
        infos = [contestant.runner().info for contestant in contestants]
        if size is None:
            _check_sizes(infos)
        info = infos[0]
        config = options.inference_config(
            size or info.short_side,
            scales=scales,
            max_long_side=max_long_side,
            decode=options.decode_settings(info, {"flip": flip}),
        )
        options.tell_unused_settings(
            preset, has_checkpoint=against is not None or any(each.kind == "checkpoint" for each in infos)
        )
        photos = _photos(images)
        with console.progress("timing pairs", pairs) as advance:
            report = run_bench(contestants, photos, config, pairs=pairs, batches=sizes, advance=advance)
    if as_json:
        console.emit_json(report.as_document())
    else:
        _print(report)
    if plot is not None:
        _plot(plot, report)


def _labels(models: list[str]) -> list[str]:
    """File names, or the paths as they were typed where two share a name."""
    names = [Path(model).name for model in models]
    return [model if names.count(name) > 1 else name for model, name in zip(models, names, strict=True)]


def _check_sizes(infos: list[RunnerInfo]) -> None:
    """Refuse models made for other input sizes than the first unless --size puts all of them on one."""
    for info in infos:
        if info.short_side != infos[0].short_side:
            raise InputError(
                f"{info.name} was made for a short side of {info.short_side}, {infos[0].name} for "
                f"{infos[0].short_side}: their times cannot be compared.",
                hint="Compare models of one input size, or choose one for all with --size.",
            )


def _whole_numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--batches takes whole numbers above 0 separated by commas, got {text!r}.")
    return [int(part) for part in parts]


def _opponents(stack: ExitStack, against: str | None, checkpoint: str, preset: str | None) -> list[Contestant]:
    """Contestants made from the checkpoint; engines are built in a folder that goes away afterwards."""
    from hhrnet_deploy.pipeline.bench import Contestant
    from hhrnet_deploy.pipeline.build import build_engine

    made = []
    for name in dict.fromkeys(part.strip() for part in against.split(",")) if against else ():
        if name not in _OPPONENTS:
            raise InputError(f"--against knows {', '.join(_OPPONENTS)}; got {name!r}.")
        if name in ("torch", "official-style"):
            made.append(Contestant(name, checkpoint, preset, "native" if name == "torch" else "reference"))
            continue
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hhrnet-bench-"))) / name
        build_engine(checkpoint, folder, target=name, preset=preset, progress=console.info)
        made.append(Contestant(f"{name} fp32", folder))
    return made


def _photos(images: Path | None) -> list[Path]:
    from hhrnet_deploy.data.coco import open_dataset
    from hhrnet_deploy.data.synth import ensure_synthetic
    from hhrnet_deploy.pipeline.inputs import Photo, expand

    if images is not None:
        return [found.path for found in expand([str(images)]) if isinstance(found, Photo)]
    with console.progress("drawing synthetic people", None) as advance:
        folder = ensure_synthetic("synthetic_demo_64", lambda done, _: advance(done))
    console.info("photos: 16 of the synthetic set synthetic_demo_64; --images takes a folder")
    return [sample.path for sample in open_dataset(folder)[:16]]


def _print(report: BenchReport) -> None:
    """Two tables, because all figures in a row do not fit 80 columns."""
    from hhrnet_deploy.pipeline.bench import STAGES

    sizes = ", ".join(f"{width}x{height}" for width, height in report.network_sizes)
    title = (
        f"{report.pairs} pairs on {report.photos} photos, network input {sizes}, flip {'on' if report.flip else 'off'}"
    )
    names = [f"{row.label} ({row.target} {row.precision})" for row in report.rows]
    columns = (*STAGES, "total")
    times = [
        [name, *(f"{row.stages[stage].p50:.2f}" for stage in columns), f"{row.stages['total'].p90:.1f}"]
        for name, row in zip(names, report.rows, strict=True)
    ]
    console.out.print(title, markup=False)
    console.table(["p50, ms per image", *columns, "total p90"], times)
    console.table(*_rates(names, report.rows))


def _rates(names: list[str], rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of ratios, rates, memory and, where a card tells, energy."""
    batches = list(rows[0].images_per_second)
    energy = any(row.joules_per_image is not None for row in rows)
    columns = ["against the first", "total", "network", *(f"img/s, batch {batch}" for batch in batches), "peak MiB"]
    cells = [
        [
            name,
            f"{row.ratio:.3f}",
            f"{row.ratio_network:.3f}",
            *(f"{row.images_per_second[batch]:.2f}" for batch in batches),
            f"{row.peak_memory_mib:.0f}",
            *(["-" if row.joules_per_image is None else f"{row.joules_per_image:.2f}"] if energy else []),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    return columns + (["J/image"] if energy else []), cells


def _plot(path: Path, report: BenchReport) -> None:
    from hhrnet_deploy.pipeline.bench import STAGES
    from hhrnet_deploy.visualize.bench_plot import plot_stages

    rows = {row.label: [row.stages[stage].p50 for stage in STAGES] for row in report.rows}
    plot_stages(path, STAGES, rows)
    console.info(f"plot: {path}")
