"""How much of the network's own rate a video keeps, with reading, decoding, overlay and encoding."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.synth import ensure_synthetic
from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.filters import PeopleFilter
from hhrnet_deploy.pipeline.inputs import Video
from hhrnet_deploy.pipeline.overlays import OverlayFolder, Style
from hhrnet_deploy.pipeline.pose import Pose
from hhrnet_deploy.pipeline.predict import Problems, predict_inputs
from hhrnet_deploy.targets.photos import plan_photo
from hhrnet_deploy.targets.runner import Runner
from hhrnet_deploy.visualize.video import Frame, VideoReader, VideoWriter

SIZE = (640, 480)
ROOT = Path(__file__).resolve().parents[3]
ROUNDS = 3


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames: synthetic people, a new scene every eight frames, moving a little in between."""
    import cv2

    photos = sorted((ensure_synthetic("synthetic_demo_64") / "images").rglob("*.*"))[:5]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with VideoWriter(path, 25.0) as writer:
        for number in range(40):
            scene = cv2.resize(cv2.imread(str(photos[number // 8])), SIZE)[:, :, ::-1]
            writer.write(Frame(number, number / 25, np.ascontiguousarray(np.roll(scene, 2 * (number % 8), axis=1))))
    return path


def _network_rate(runner: Runner, film: Path, config: InferenceConfig) -> float:
    """Frames per second of the network alone, flip test included, on the frames as it gets them."""
    with VideoReader(str(film)) as reader:
        frames = [frame.image for frame in reader]
    warp = plan_photo(config, SIZE).warps[0][1]
    inputs = [warp.apply(frame)[None] for frame in frames]
    started = time.perf_counter()
    for pixels in inputs:
        runner.heads_with_flip(pixels, config.decode.flip)
    return len(inputs) / (time.perf_counter() - started)


def _video_rate(pose: Pose, film: Path, folder: Path) -> tuple[float, float]:
    """``hhrnet predict --save-video``, from opening the file to the finished result.

    Returns:
        Frames per second, and milliseconds of processor time per frame, all threads and stages together.
    """
    started, processor = time.perf_counter(), time.process_time()
    frames = 0
    with OverlayFolder(folder) as out:
        for seen in predict_inputs(
            pose, [Video(str(film))], Problems(), on_video=lambda v, fps, _: out.begin_video(v, fps)
        ):
            out.add(seen, Style().draw(seen, pose.skeleton))
            frames += 1
    return frames / (time.perf_counter() - started), 1e3 * (time.process_time() - processor) / frames


@pytest.mark.figures
@pytest.mark.parametrize("preset", ["small_256", "w32_512"])
def test_video_keeps_most_of_the_networks_rate(preset: str, film: Path, tmp_path: Path) -> None:
    model = load_model(preset, "default" if preset == "small_256" else None)
    calibration = f"{ensure_synthetic('synthetic_demo_64')}/images/val2017:4"
    built = build_engine(model, tmp_path / "int8", target="openvino", precision="int8", calibration=calibration)
    ratios, rates, processor = [], [], []
    with Pose.open(built.path, keep=PeopleFilter(min_score=0.1)) as pose:
        _network_rate(pose._runner, film, pose.config)
        for number in range(ROUNDS):
            network = _network_rate(pose._runner, film, pose.config)
            video, busy = _video_rate(pose, film, tmp_path / str(number))
            processor.append(busy)
            rates.append((round(network, 2), round(video, 2)))
            ratios.append(video / network)
    _record(
        f"video_{preset}",
        {
            "network_and_video_fps": rates,
            "ratio": round(statistics.median(ratios), 3),
            "processor_ms_per_frame": round(statistics.median(processor), 1),
            "cores": os.cpu_count(),
        },
    )
    if preset == "w32_512":
        assert statistics.median(ratios) >= 0.85


def _record(name: str, figures: dict[str, object]) -> None:
    path = ROOT / "docs" / "figures.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | {name: figures}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(name, figures)
