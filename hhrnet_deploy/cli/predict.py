"""``hhrnet predict``: people in photos, videos, cameras and streams."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.files import require_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hhrnet_deploy.pipeline.inputs import Photo, Video
    from hhrnet_deploy.pipeline.live import LivePage
    from hhrnet_deploy.pipeline.outputs import Sink
    from hhrnet_deploy.pipeline.overlays import OverlayFolder, Style
    from hhrnet_deploy.pipeline.pose import Pose
    from hhrnet_deploy.pipeline.predict import Problems, Seen


def predict(
    inputs: Annotated[list[str], typer.Argument(help="Photos, folders, globs, videos, camera numbers or URLs.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Engine bundle, ONNX file, checkpoint, or 'default'.")
    ] = "default",
    preset: options.Preset = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures and videos.")] = Path(
        "predictions"
    ),
    overlay: Annotated[bool, typer.Option(help="Write photos with the people drawn in.")] = True,
    save_video: Annotated[
        bool | None, typer.Option("--save-video/--no-save-video", help="Write videos with the people drawn in.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the live picture on a page on localhost.")] = False,
    port: Annotated[int, typer.Option(help="Port of that page; 0 picks a free one.", min=0, max=65535)] = 0,
    coco: Annotated[Path | None, typer.Option(help="Write a COCO JSON file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file, one row per person.")] = None,
    jsonl: Annotated[Path | None, typer.Option(help="Write JSON lines, one per photo or frame.")] = None,
    boxes: Annotated[bool, typer.Option(help="Draw boxes.")] = False,
    scores: Annotated[bool, typer.Option(help="Write the scores into the picture.")] = True,
    min_score: Annotated[float, typer.Option(help="Keep people with at least this score.", min=0.0, max=1.0)] = 0.1,
    max_people: Annotated[int | None, typer.Option(help="Keep at most that many people per picture.", min=1)] = None,
    suppress_duplicates: Annotated[
        bool, typer.Option("--suppress-duplicates", help="Drop a person who repeats a better one (changes AP).")
    ] = False,
    flip: options.Flip = None,
    scales: options.Scales = "1",
    size: options.Size = None,
    detection_threshold: options.DetectionThreshold = None,
    max_long_side: options.MaxLongSide = 4096,
    batch: options.Batch = 1,
    as_json: options.AsJson = False,
) -> None:
    """Find people in photos, folders, videos, a camera (its number) or a stream (its URL).

    Pictures with the people drawn in go to the output folder. Photos are turned upright as their EXIF orientation
    says. A video is written with its people when no other output is asked for. Ctrl-C and SIGTERM keep what was done
    so far.

    Examples:

      hhrnet predict photo.jpg

      hhrnet predict holiday/ --model engines/mine --coco people.json

      hhrnet predict dance.mp4 --save-video --csv people.csv

      hhrnet predict 0 --show
    """
    from hhrnet_deploy.pipeline.filters import PeopleFilter
    from hhrnet_deploy.pipeline.inputs import Video, expand
    from hhrnet_deploy.pipeline.overlays import OverlayFolder, Style, files_of
    from hhrnet_deploy.pipeline.pose import Pose
    from hhrnet_deploy.pipeline.predict import Problems
    from hhrnet_deploy.targets.opening import open_model

    problems = Problems()
    found = expand(inputs, lambda error: problems.add(str(error)), console.info)
    tables = {"coco": coco, "csv": csv, "jsonl": jsonl}
    if save_video is None:
        silent = not (any(tables.values()) or show or as_json)
        save_video = silent and any(isinstance(item, Video) for item in found)
    sources = files_of(found)
    _check_outputs(tables, output if overlay or save_video else None, sources)
    runner = open_model(model, preset=preset)
    config = options.inference_config(
        size or runner.info.short_side,
        scales=scales,
        max_long_side=max_long_side,
        decode=options.decode_settings(runner.info, {"flip": flip, "detection_threshold": detection_threshold}),
    )
    options.tell_unused_settings(preset, has_checkpoint=runner.info.kind == "checkpoint")
    keep = PeopleFilter(min_score, max_people, suppress_duplicates)
    run: _Run | None = None
    interrupted: KeyboardInterrupt | None = None
    try:
        with ExitStack() as stack:
            pose = stack.enter_context(Pose(runner, config, keep=keep, batch=batch))
            page = _page(stack, port) if show else None
            run = _Run(
                pose=pose,
                style=Style(boxes=boxes, scores=scores),
                folder=stack.enter_context(OverlayFolder(output, sources)),
                photos=overlay,
                videos=save_video,
                sinks=_sinks(stack, pose, tables),
                page=page,
                keep_results=as_json,
                problems=problems,
            )
            run.over(found)
    except KeyboardInterrupt as error:
        # The usual end of a camera: files are closed and what was done is reported before the exit with 130.
        if run is None:
            raise
        interrupted = error
    run.report([path for path in tables.values() if path is not None], as_json=as_json)
    if interrupted is not None:
        raise interrupted


def _check_outputs(tables: dict[str, Path | None], folder: Path | None, sources: Collection[Path]) -> None:
    """Say before any work that an output would replace an input or another output.

    Raises:
        InputError: it would, or the folder for pictures is a file.
    """
    taken: dict[Path, str] = {}
    for name, path in tables.items():
        if path is None:
            continue
        full = path.resolve()
        other = "one of the inputs" if full in sources else taken.get(full)
        if other is not None:
            raise InputError(f"--{name} {path} is {other}.", hint="Give it a name of its own.")
        taken[full] = f"the file of --{name}, too"
    if folder is not None:
        require_folder(folder)


def _sinks(stack: ExitStack, pose: Pose, tables: dict[str, Path | None]) -> list[Sink]:
    from hhrnet_deploy.pipeline import outputs

    sinks: list[Sink] = []
    if (path := tables["coco"]) is not None:
        sinks.append(stack.enter_context(outputs.coco(path, pose.skeleton)))
    if (path := tables["csv"]) is not None:
        sinks.append(stack.enter_context(outputs.table(path, pose.skeleton)))
    if (path := tables["jsonl"]) is not None:
        sinks.append(stack.enter_context(outputs.json_lines(path)))
    return sinks


def _page(stack: ExitStack, port: int) -> LivePage:
    from hhrnet_deploy.pipeline.live import LivePage

    page = stack.enter_context(LivePage(port))
    console.info(f"live picture: {page.url}")
    return page


@dataclass
class _Run:
    """One pass over the inputs, and what it found."""

    pose: Pose
    style: Style
    folder: OverlayFolder
    photos: bool
    videos: bool
    sinks: list[Sink]
    page: LivePage | None
    keep_results: bool
    problems: Problems
    pictures: int = 0
    people: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)

    def over(self, inputs: Sequence[Photo | Video]) -> None:
        from hhrnet_deploy.pipeline.inputs import Photo
        from hhrnet_deploy.pipeline.predict import predict_inputs

        only_photos = all(isinstance(item, Photo) for item in inputs)
        total = len(inputs) if only_photos else None
        with console.progress("photos" if only_photos else "frames", total) as advance:
            for seen in predict_inputs(self.pose, inputs, self.problems, on_video=self._begin_video):
                self._take(seen)
                advance(self.pictures, f"{self.people} people")

    def _begin_video(self, video: Video, fps: float, frames: int | None) -> None:
        console.info(
            f"{video.source}: {fps:.2f} frames/s, {frames if frames is not None else 'unknown number of'} frames"
        )
        if self.videos:
            self.folder.begin_video(video, fps)

    def _take(self, seen: Seen) -> None:
        from hhrnet_deploy.pipeline.inputs import Photo

        for sink in self.sinks:
            sink.add(seen.prediction)
        if self.keep_results:
            self.results.append(seen.prediction.as_document())
        # Counted once it is in the files, so that an interruption never reports more than they hold.
        self.pictures += 1
        self.people += len(seen.prediction.people)
        wanted = self.photos if isinstance(seen.origin, Photo) else self.videos
        if not wanted and self.page is None:
            return
        picture = self.style.draw(seen, self.pose.skeleton)
        if wanted:
            self.folder.add(seen, picture)
        if self.page is not None:
            self.page.show(picture)

    def report(self, tables: list[Path], *, as_json: bool) -> None:
        """Print what was found; inputs that could not be read make it an error at the end."""
        written = [str(path) for path in (*self.folder.written, *tables) if path.exists()]
        if as_json:
            console.emit_json(
                {
                    "pictures": self.pictures,
                    "people": self.people,
                    "written": written,
                    "problems": self.problems.messages,
                    "results": self.results,
                }
            )
        else:
            people = "1 person" if self.people == 1 else f"{self.people} people"
            pictures = "1 picture" if self.pictures == 1 else f"{self.pictures} pictures"
            console.out.print(f"{people} in {pictures}")
            for path in written:
                console.out.print(f"  {path}", markup=False)
        if problems := self.problems.messages:
            raise HHRNetError("\n  ".join(("Some inputs could not be read to their end:", *problems)))
