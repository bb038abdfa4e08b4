"""A whole training run: recipe, data, network, validation and records put together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.evaluate.run import EvaluationOptions, check_data, evaluate
from hhrnet_deploy.files import is_disk_full, locked, require_folder, write_text
from hhrnet_deploy.model.checkpoint import LoadedModel
from hhrnet_deploy.model.presets import find_preset
from hhrnet_deploy.targets.torch import TorchRunner
from hhrnet_deploy.train.arithmetic import NO_BF16, has_bf16
from hhrnet_deploy.train.distributed import World, joined, synchronise_norms
from hhrnet_deploy.train.ema import MovingAverage
from hhrnet_deploy.train.loop import BEST_FILE, FINAL_FILE, STATE_FILE, Run, Validate
from hhrnet_deploy.train.optimiser import make_optimiser
from hhrnet_deploy.train.picture import draw_validation, latest_picture
from hhrnet_deploy.train.recipe import Recipe, Source
from hhrnet_deploy.train.records import Watcher, recorders
from hhrnet_deploy.train.samples import TrainingSet
from hhrnet_deploy.train.sources import Say, open_training_sources, open_validation_source
from hhrnet_deploy.train.start import freeze, start_network
from hhrnet_deploy.train.state import Learner, load_state
from hhrnet_deploy.train.summary import write_summary

RECIPE_FILE = "recipe.yaml"
PICTURES = "pictures"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What a run is asked for beside its recipe.

    Attributes:
        folder: of the run: checkpoint, weights, metrics, pictures.
        data: one data set that replaces the recipe's.
        init: weights to start from, instead of the recipe's.
        resume: go on from the folder's checkpoint.
    """

    folder: Path
    data: Path | None = None
    init: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class TrainingReport:
    """What came out.

    Attributes:
        folder: of the run.
        finished: False when it was asked to stop; ``--resume`` goes on.
        steps, images, seconds: how much was done, over all starts.
        best_ap: highest validation AP, 0 to 1; None without validation.
        weights: the weights to use: the best by AP, else the last; None when stopped before there were any.
        summary: the page with the learning curve; None where matplotlib is missing.
    """

    folder: Path
    finished: bool
    steps: int
    images: int
    seconds: float
    best_ap: float | None
    weights: Path | None
    summary: Path | None


def train(
    recipe: Recipe, options: TrainingOptions, *, watchers: tuple[Watcher, ...] = (), say: Say = _log.info
) -> TrainingReport | None:
    """Run a recipe in this process, or in all that ``torchrun`` started.

    Args:
        recipe: what to do.
        options: where, on what, from what.
        watchers: told of progress beside the records in the folder (rank 0).
        say: told in sentences what the run starts from (rank 0).

    Returns:
        What came out; None on the processes other than rank 0.

    Raises:
        InputError: data or weights do not fit, an image is unreadable, or the folder holds another run.
        HHRNetError: the loss is not finite, or the disk is full.
    """
    _check_folder(options)
    recipe = _on_data(recipe, options.data)
    with joined() as world, _with_room(options.folder), _alone_in(options.folder, world):
        tell = say if world.leads else _nothing
        parts = _opened_by_all(recipe.sources, world, tell)
        learner = make_learner(recipe, options, parts[0][0], world, tell)
        run = Run(recipe, TrainingSet(parts, recipe), learner, world, options.folder)
        # On every process: the others wait while rank 0 validates.
        run.validate = _validator(run, options.folder / PICTURES, tell)
        if world.leads:
            run.watchers = [*recorders(options.folder, learner.position.step), *watchers]
            write_text(options.folder / RECIPE_FILE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
            if recipe.precision == "bf16" and not has_bf16(world.device):
                tell(NO_BF16)
            tell(_size_of(run))
        finished = run.fit()
        return _report(run, options.folder, finished) if world.leads else None


def _on_data(recipe: Recipe, data: Path | None) -> Recipe:
    """The recipe with ``--data`` in the place of its own sources and validation."""
    if data is None:
        return recipe
    first = recipe.sources[0] if len(recipe.sources) == 1 else Source(path=str(data))
    source = Source(path=str(data), split=first.split, repeat=first.repeat)
    return recipe.model_copy(update={"sources": (source,), "validation": Source(path=str(data))})


@contextmanager
def _alone_in(folder: Path, world: World) -> Iterator[None]:
    """Refuse a folder in which another run is at work; the checkpoint that would tell comes minutes later.

    A new folder in which an error left nothing but the lock is removed again.
    """
    if not world.leads:
        yield
        return
    lock = folder / ".lock"
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"Another training is at work in {folder}.", hint="Wait for it, or choose another --output."
            ) from error
        try:
            yield
        except BaseException:
            if fresh and list(folder.iterdir()) == [lock]:
                lock.unlink()
                folder.rmdir()
            raise


@contextmanager
def _with_room(folder: Path) -> Iterator[None]:
    """Say how to go on when the disk is full."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise HHRNetError(
            f"The disk is full: {error.filename or folder} could not be written.",
            hint="Free some space, then go on with --resume; the last checkpoint is whole.",
        ) from error


def _opened_by_all(sources: tuple[Source, ...], world: World, tell: Say) -> tuple[tuple[KeypointDataset, int], ...]:
    """Rank 0 first, so that a set that has to be made is made once."""
    if not world.leads:
        world.wait()
        return open_training_sources(sources, tell)
    parts = open_training_sources(sources, tell)
    world.wait()
    return parts


def make_learner(
    recipe: Recipe, options: TrainingOptions, dataset: KeypointDataset, world: World, tell: Say
) -> Learner:
    """The network on its device, its optimiser and average: fresh, from weights, or resumed."""
    torch.manual_seed(recipe.seed)
    preset = find_preset(recipe.preset)
    if preset.skeleton != dataset.skeleton:
        tell(f"The data set has the skeleton {dataset.skeleton.name}; {preset.name} is made for that one.")
        preset = preset.with_skeleton(dataset.skeleton)
    init = None if options.resume else (options.init or recipe.init)
    network, notes = start_network(preset, init, backbone_only=recipe.init_layers == "backbone", fresh=recipe.fresh)
    freeze(network, recipe.frozen)
    network.to(world.device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.sync_bn and world.ranks > 1:
        synchronise_norms(network, world.device)
    learner = Learner(
        network,
        make_optimiser(recipe.optimiser, network),
        torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16"),
        None if recipe.ema is None else MovingAverage(network, recipe.ema),
    )
    if options.resume:
        _resume(recipe, options, learner)
        position = learner.position
        notes = [f"Going on from epoch {position.epoch + 1}, step {position.step} ({options.folder / STATE_FILE})."]
        if options.init is not None:
            notes.append(f"{options.init} is not read: --resume goes on with the run's own weights.")
    for note in notes:
        tell(note)
    return learner


def _resume(recipe: Recipe, options: TrainingOptions, learner: Learner) -> None:
    before = load_state(options.folder / STATE_FILE, learner)
    now = recipe.model_dump(mode="json")
    changed = sorted(key for key in now if now[key] != before.get(key))
    if changed:
        _log.warning(
            "The recipe differs from the one this run was started with: %s. The run goes on with the new values.",
            ", ".join(changed),
        )


def _check_folder(options: TrainingOptions) -> None:
    require_folder(options.folder)
    state = options.folder / STATE_FILE
    if options.resume and not state.is_file():
        raise InputError(f"There is no checkpoint {state} to resume from.", hint="Start the run without --resume.")
    if not options.resume and state.exists():
        raise InputError(
            f"{options.folder} already holds a training run.",
            hint="Go on with --resume, or choose another folder with --output.",
        )


def _validator(run: Run, pictures: Path, tell: Say) -> Validate | None:
    dataset = _validation_set(run.recipe, tell)
    if dataset is None:
        tell("No validation: there is no split with annotations besides the one trained on.")
        return None
    if run.world.leads:  # who validates
        check_data(TorchRunner(run.learner.network, run.learner.network.preset, name="training"), dataset)
        tell(f"Validating on {len(dataset)} images of {dataset.root} ({dataset.split}).")
        seen = len({path for part, _ in run.samples.parts for path in part.paths}.intersection(dataset.paths))
        if seen:
            tell(f"{seen} of them are trained on too: AP says little about other images.")

    def validate(network: LoadedModel, step: int) -> float | None:
        runner = TorchRunner(network, network.preset, name="training")
        report = evaluate(runner, dataset, options=EvaluationOptions(batch=4))
        with runner:
            draw_validation(runner, dataset, pictures / f"step_{step:08d}.jpg")
        ap = report.subject.metrics["AP"]
        if ap is None:
            tell(f"AP is undefined: nobody in {dataset.root} ({dataset.split}) counts. No weights are the best then.")
        return ap

    return validate


def _validation_set(recipe: Recipe, tell: Say) -> KeypointDataset | None:
    """The recipe's; where it names none, that of the first source's folder."""
    source = recipe.validation
    if source is None:
        if recipe.sources[0].path is None:
            return None
        source = Source(path=recipe.sources[0].path)
    found = open_validation_source(source, tell)
    return None if found is None else found[: recipe.validation_images]


def _size_of(run: Run) -> str:
    split = run.split
    return (
        f"{len(run.samples)} samples and {run.steps} steps an epoch; {split.global_batch} images a step = "
        f"{split.ranks} process(es) x {split.micro_batch} x {split.accumulation} (accumulated) on {run.world.device}."
    )


def _report(run: Run, folder: Path, finished: bool) -> TrainingReport:
    position = run.learner.position
    best = position.best_ap if position.best_ap >= 0 else None
    # With an AP of 0 throughout, the first weights are no better than the last.
    candidates = (folder / BEST_FILE, folder / FINAL_FILE) if best else (folder / FINAL_FILE, folder / BEST_FILE)
    title = f"{folder.name}: {position.images} images, {position.step} steps, {position.seconds / 3600:.2f} h"
    if best is not None:
        title += f", best AP {100 * best:.1f}"
    summary = write_summary(folder, title, latest_picture(folder / PICTURES))
    return TrainingReport(
        folder=folder,
        finished=finished,
        steps=position.step,
        images=position.images,
        seconds=position.seconds,
        best_ap=best,
        weights=next((path for path in candidates if path.is_file()), None),
        summary=summary,
    )


def _nothing(_message: str) -> None:
    """Said on the other processes."""
