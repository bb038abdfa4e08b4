"""Engines side by side: the same photos, in pairs, stage by stage."""

from __future__ import annotations

import multiprocessing
import re
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.pipeline.power import GpuEnergy
from hhrnet_deploy.signals import children_spared
from hhrnet_deploy.targets.runner import Decoder, Runner

Image = npt.NDArray[np.uint8]
Advance = Callable[[int, str], None]

STAGES = ("read", "warp", "network", "decode")
_WARM_UP = 2


@dataclass(frozen=True)
class Contestant:
    """One model in a comparison.

    Attributes:
        label: how tables and plots call it; unique.
        what: bundle, ONNX file, checkpoint or ``"default"``, for `open_model`.
        preset: of a checkpoint that does not say what it is.
        decoder: ``native``, or ``reference`` for the readable one in NumPy.
    """

    label: str
    what: str | Path
    preset: str | None = None
    decoder: Decoder = "native"

    def runner(self) -> Runner:
        """A runner of it, not open yet."""
        from hhrnet_deploy.targets.opening import open_model

        return open_model(self.what, self.preset)


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds per image."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """Of at least one measurement in seconds."""
        return cls(*(round(1000 * float(value), 4) for value in np.quantile(seconds, (0.5, 0.9, 0.99))))


@dataclass(frozen=True)
class Row:
    """What one contestant reached.

    Attributes:
        stages: read, warp, network, decode and total, one image after the other.
        ratio: median over pairs of its total over the first contestant's total for the same photo.
        ratio_network: the same of the network alone.
        images_per_second: end to end, the stages overlapping, at each batch size.
        peak_memory_mib: of a process that runs only it.
        joules_per_image: where the card tells, else None.
    """

    label: str
    target: str
    precision: str
    decoder: str
    stages: dict[str, Quantiles]
    ratio: float
    ratio_network: float
    images_per_second: dict[int, float]
    peak_memory_mib: float
    joules_per_image: float | None


@dataclass(frozen=True)
class BenchReport:
    """A comparison; every row saw the same photos in the same order."""

    photos: int
    pairs: int
    network_sizes: list[tuple[int, int]]
    flip: bool
    scales: tuple[float, ...]
    rows: list[Row]

    def as_document(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Trial:
    """What every contestant gets."""

    photos: Sequence[Path]
    config: InferenceConfig
    pairs: int
    batches: Sequence[int]


@dataclass
class _Lane:
    """A contestant that is running, and its times in seconds."""

    contestant: Contestant
    runner: Runner
    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*STAGES, "total")})

    def add(self, seconds: Sequence[float]) -> None:
        for name, value in zip(STAGES, seconds, strict=True):
            self.times[name].append(value)
        self.times["total"].append(sum(seconds))


def run_bench(
    contestants: Sequence[Contestant],
    photos: Sequence[Path],
    config: InferenceConfig,
    *,
    pairs: int = 20,
    batches: Sequence[int] = (1,),
    advance: Advance = lambda done, note: None,
) -> BenchReport:
    """Time every contestant on the same photos.

    Each pair runs all contestants on one photo, in rotating order, so that a busy moment hits them alike; ratios are
    medians over pairs.

    Args:
        contestants: the first is what the others are compared with.
        photos: read from disk each time.
        config: sizes, scales, flip; the same for all.
        pairs: how many pairs are timed, after two to warm up.
        batches: batch sizes of the throughput runs.
        advance: called with (pairs done, remark).

    Raises:
        InputError: no photo, two contestants of one name, a fixed-size engine that cannot take the same inputs, or one
            that takes smaller batches.
    """
    _check(contestants, photos, max(batches))
    trial = _Trial(photos, config, pairs, batches)
    memory = [_peak_memory(contestant, photos[0], config) for contestant in contestants]
    with ExitStack() as stack:
        lanes = [_Lane(contestant, stack.enter_context(contestant.runner())) for contestant in contestants]
        sizes = _check_same_inputs([lane.runner for lane in lanes], trial)
        _time_pairs(lanes, trial, advance)
        rows = [_row(lane, lanes[0], trial, peak) for lane, peak in zip(lanes, memory, strict=True)]
    return BenchReport(len(photos), pairs, sizes, config.decode.flip, config.scales, rows)


def _check(contestants: Sequence[Contestant], photos: Sequence[Path], batch: int) -> None:
    if not photos:
        raise InputError("There is no photo to time on.")
    labels = [contestant.label for contestant in contestants]
    if len(set(labels)) != len(labels):
        raise InputError(f"Two contestants have one name: {', '.join(labels)}.")
    for info in (contestant.runner().info for contestant in contestants if batch > 1):
        if info.max_batch is not None and batch > info.max_batch:
            raise InputError(f"{info.name} takes at most {info.max_batch} images at once, --batches asks for {batch}.")


def _check_same_inputs(runners: Sequence[Runner], trial: _Trial) -> list[tuple[int, int]]:
    """The network inputs (W, H) of the photos; refuses fixed-size engines that do not take all of them."""
    from hhrnet_deploy.data.images import read_image
    from hhrnet_deploy.targets.photos import check_fits, plan_photo

    config = trial.config
    sizes = set()
    for path in trial.photos:
        height, width = read_image(path).shape[:2]
        sizes.add(plan_photo(config, (width, height)).size)
        for runner in runners:
            check_fits(runner, config, (width, height))
    return sorted(sizes)


def _time_pairs(lanes: Sequence[_Lane], trial: _Trial, advance: Advance) -> None:
    for pair in range(-_WARM_UP, trial.pairs):
        photo = trial.photos[pair % len(trial.photos)]
        for turn in range(len(lanes)):
            lane = lanes[(turn + pair) % len(lanes)]
            seconds = _time_stages(lane.runner, lane.contestant.decoder, photo, trial.config)
            if pair >= 0:
                lane.add(seconds)
        advance(max(pair + 1, 0), photo.name)


def _time_stages(
    runner: Runner, decoder: Decoder, photo: Path, config: InferenceConfig
) -> tuple[float, float, float, float]:
    """Seconds for read, warp, network and decode; an engine with people as outputs decodes within its network time."""
    from hhrnet_deploy.data.images import read_image
    from hhrnet_deploy.decode import decode_heads
    from hhrnet_deploy.targets.photos import plan_photo

    marks = [time.perf_counter()]
    image = read_image(photo)
    marks.append(time.perf_counter())
    plan = plan_photo(config, (image.shape[1], image.shape[0]))
    inputs = [(scale, warp.apply(image)[None]) for scale, warp in plan.warps]
    marks.append(time.perf_counter())
    if runner.info.outputs == "people":
        found = runner.people(inputs, config.decode, size=plan.size)
        marks.append(time.perf_counter())
    else:
        heads = [(scale, runner.heads_with_flip(pixels, config.decode.flip)) for scale, pixels in inputs]
        marks.append(time.perf_counter())
        settings = config.decode.model_copy(update={"skeleton": runner.info.skeleton})
        found = decode_heads(heads, size=plan.size, config=settings, decoder=decoder)
    plan.to_image(found[0])
    marks.append(time.perf_counter())
    read, warp, network, decode = np.diff(marks)
    return float(read), float(warp), float(network), float(decode)


def _row(lane: _Lane, first: _Lane, trial: _Trial, peak: float) -> Row:
    info = lane.runner.info
    rates, joules = _throughput(lane, trial)
    return Row(
        label=lane.contestant.label,
        target=info.target,
        precision=info.precision,
        decoder=lane.contestant.decoder,
        stages={name: Quantiles.of(seconds) for name, seconds in lane.times.items()},
        ratio=_median_ratio(lane.times["total"], first.times["total"]),
        ratio_network=_median_ratio(lane.times["network"], first.times["network"]),
        images_per_second=rates,
        peak_memory_mib=peak,
        joules_per_image=joules,
    )


def _median_ratio(own: Sequence[float], first: Sequence[float]) -> float:
    return round(float(np.median(np.asarray(own) / np.asarray(first))), 4)


def _throughput(lane: _Lane, trial: _Trial) -> tuple[dict[int, float], float | None]:
    """Images per second by batch size, from files to people with the stages overlapping; joules per image on a GPU."""
    counts = [max(len(trial.photos), 4 * batch) for batch in trial.batches]
    with GpuEnergy() as energy:
        rates = {batch: _rate(lane, trial, batch, count) for batch, count in zip(trial.batches, counts, strict=True)}
    on_gpu = lane.runner.info.target.startswith("tensorrt")
    return rates, energy.joules / sum(counts) if on_gpu and energy.joules is not None else None


def _rate(lane: _Lane, trial: _Trial, batch: int, count: int) -> float:
    from hhrnet_deploy.targets.photos import predict_photos

    photos = [(number, trial.photos[number % len(trial.photos)]) for number in range(count)]
    started = time.perf_counter()
    for _ in predict_photos(lane.runner, photos, trial.config, decoder=lane.contestant.decoder, batch=batch):
        pass
    return round(count / (time.perf_counter() - started), 3)


def _peak_memory(contestant: Contestant, photo: Path, config: InferenceConfig) -> float:
    """MiB that a process of its own needs at most to open the model and run one photo."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        with children_spared(signal.SIGINT):  # leaving the pool ends its process
            pool = stack.enter_context(context.Pool(1))
        return pool.apply(_measure_memory, (contestant, photo, config))


def _measure_memory(contestant: Contestant, photo: Path, config: InferenceConfig) -> float:
    with contestant.runner() as runner:
        _time_stages(runner, contestant.decoder, photo, config)
    return round(_high_water_kib() / 1024, 1)


def _high_water_kib() -> int:
    """Peak resident memory of this process; ``ru_maxrss`` would still hold the parent's from before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found is not None:
            return int(found.group(1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
