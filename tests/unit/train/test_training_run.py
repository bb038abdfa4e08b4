"""A whole run in a second, and what it does when something is wrong."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from train_world import recipe_document, write_people, write_preset

from hhrnet_deploy.errors import CheckpointError, HHRNetError, InputError
from hhrnet_deploy.files import locked
from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.pipeline import training
from hhrnet_deploy.pipeline.training import TrainingOptions, TrainingReport, train
from hhrnet_deploy.skeletons import CROWDPOSE
from hhrnet_deploy.train.recipe import parse_recipe
from hhrnet_deploy.train.step import NotANumberError, Stepper


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    data = write_people(tmp_path / "data", images=8)
    write_people(data, images=3, seed=1, split="val2017")
    return recipe_document(write_preset(tmp_path / "tiny.yaml"), data)


def _train(document: dict[str, Any], folder: Path, **options: Any) -> TrainingReport:
    said: list[str] = options.pop("said", [])
    report = train(parse_recipe(document, name="test"), TrainingOptions(folder=folder, **options), say=said.append)
    assert report is not None
    return report


def test_a_run_leaves_weights_metrics_events_pictures_and_a_page(world: dict[str, Any], tmp_path: Path) -> None:
    report = _train({**world, "ema": 0.9}, tmp_path / "run")
    assert report.finished
    assert (report.steps, report.images) == (4, 16)
    assert report.best_ap is not None
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["epoch"] for line in lines if "ap" in line] == [1, 2]
    assert list(run.glob("events.out.tfevents*"))
    assert len(list((run / "pictures").glob("*.jpg"))) == 2
    assert (run / "summary.png").stat().st_size > 10_000
    assert report.weights is not None
    loaded = load_model(checkpoint=report.weights)
    assert loaded.num_joints == 17
    assert loaded.source.metadata is not None
    assert loaded.source.metadata["training"]["steps"] in (2, 4)


def test_the_order_changes_every_epoch(world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hhrnet_deploy.train import step

    seen: list[str] = []
    original = step.Stepper.step

    def spy(self: step.Stepper, batches: Any, rate: float) -> Any:
        seen.extend(Path(name).stem for batch in batches for name in batch.names)
        return original(self, batches, rate)

    monkeypatch.setattr(step.Stepper, "step", spy)
    _train(world, tmp_path / "run")
    first, second = seen[:8], seen[8:]
    assert sorted(first) == sorted(second)
    assert first != second


def test_accumulated_micro_batches_see_the_same_images(world: dict[str, Any], tmp_path: Path) -> None:
    reports = [_train({**world, "images_per_device": m}, tmp_path / str(m)) for m in (4, 1)]
    assert reports[0].steps == reports[1].steps


def test_another_skeleton_remakes_the_heads_and_says_so(tmp_path: Path) -> None:
    coco = write_people(tmp_path / "coco", images=4)
    preset = write_preset(tmp_path / "tiny.yaml")
    first = _train(recipe_document(preset, coco, epochs=1), tmp_path / "first")
    crowd = write_people(tmp_path / "crowd", images=4, joints=CROWDPOSE.joints)
    said: list[str] = []
    second = train(
        parse_recipe(recipe_document(preset, crowd, epochs=1), name="test"),
        TrainingOptions(folder=tmp_path / "second", init=str(first.weights)),
        say=said.append,
    )
    assert second.weights is not None
    assert load_model(checkpoint=second.weights).num_joints == 14
    text = " ".join(said)
    assert "The data set has the skeleton crowdpose" in text
    assert "Made anew: final_layers.0, final_layers.1, deconv_layers.0.0.0" in text


def test_a_data_set_that_is_not_there_leaves_no_folder_and_takes_none(world: dict[str, Any], tmp_path: Path) -> None:
    gone = {**world, "sources": [{"path": str(tmp_path / "gone")}]}
    with pytest.raises(InputError, match="gone"):
        _train(gone, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="gone"):
        _train(gone, tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_a_missing_image_stops_the_run_and_keeps_the_checkpoint(world: dict[str, Any], tmp_path: Path) -> None:
    _train({**world, "epochs": 1}, tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").read_bytes()
    victim = Path(world["sources"][0]["path"]) / "images" / "train2017" / "000000000003.png"
    victim.unlink()
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"000000000003\.png does not exist") as caught:
            _train({**world, "workers": workers}, tmp_path / "run", resume=True)
        assert "hhrnet data check" in str(caught.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


def test_a_loss_that_is_no_number_names_its_images_and_keeps_the_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.train import step

    original, calls = step.normalise, []

    def poison(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return original(images) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(step, "normalise", poison)
    with pytest.raises(NotANumberError) as caught:
        _train({**world, "sources": [{**world["sources"][0]}]}, tmp_path / "run")
    assert "step 4" in str(caught.value)
    assert str(caught.value).count(".png") == 4
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["position"]["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize("card", [False, True])
def test_memory_that_is_full_names_the_batch_and_what_makes_it_smaller(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: bool
) -> None:
    from hhrnet_deploy.train import step

    def fill(_images: torch.Tensor) -> torch.Tensor:
        if card:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.empty(1 << 50)

    monkeypatch.setattr(step, "normalise", fill)
    with pytest.raises(HHRNetError, match="no room for 4 images of 64x64 at once") as caught:
        _train(world, tmp_path / "run")
    assert "images_per_device" in str(caught.value)


def _broken_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is a number, its gradient is not: the square root of 0."""
    from hhrnet_deploy.train import step

    original = step.total_loss

    def poisoned(coarse: torch.Tensor, *rest: Any) -> Any:
        parts = original(coarse, *rest)
        return parts._replace(push=parts.push + (coarse.sum() * 0).sqrt())

    monkeypatch.setattr(step, "total_loss", poisoned)


def test_gradients_that_no_scale_helps_end_a_run_in_half_precision(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken_gradient(monkeypatch)
    with pytest.raises(NotANumberError, match="not finite at any scale") as caught:
        _train({**world, "precision": "fp16", "epochs": 100, "validate_every": 100}, tmp_path / "run")
    assert "bf16" in str(caught.value)


def test_images_of_a_sound_loss_are_not_blamed_for_another_process(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.train import step

    _broken_gradient(monkeypatch)
    with pytest.raises(NotANumberError, match="Its images: "):
        _train(world, tmp_path / "alone")
    monkeypatch.setattr(step, "DistributedDataParallel", torch.nn.Module)
    with pytest.raises(NotANumberError, match="the process that reports another loss"):
        _train(world, tmp_path / "one_of_many")


def test_a_full_disk_says_so_and_keeps_the_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.train import state

    _train({**world, "epochs": 1}, tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").read_bytes()

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    monkeypatch.setattr(state, "replacing", full)
    with pytest.raises(HHRNetError, match=r"state\.pt could not be written: the disk is full") as caught:
        _train(world, tmp_path / "run", resume=True)
    assert "--resume" in str(caught.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*part*"))


def test_a_full_disk_beside_the_checkpoint_says_how_to_go_on(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "summary.png")

    monkeypatch.setattr(training, "write_summary", full)
    with pytest.raises(HHRNetError, match=r"disk is full: summary\.png") as caught:
        _train({**world, "epochs": 1}, tmp_path / "run")
    assert "--resume" in str(caught.value)
    monkeypatch.undo()
    assert _train({**world, "epochs": 1}, tmp_path / "run", resume=True).finished


def test_validation_is_checked_before_the_first_step(world: dict[str, Any], tmp_path: Path) -> None:
    root = Path(world["sources"][0]["path"])
    photo = next((root / "images" / "val2017").glob("*"))
    photo.rename(tmp_path / photo.name)
    with pytest.raises(InputError, match="1 of 3 photos are missing") as caught:
        _train(world, tmp_path / "run")
    assert "hhrnet data check" in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_error_of_validation_leaves_a_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InputError("broken in between")

    monkeypatch.setattr(training, "evaluate", fail)
    with pytest.raises(InputError, match="broken in between"):
        _train(world, tmp_path / "run")
    monkeypatch.undo()
    report = _train(world, tmp_path / "run", resume=True)
    assert (report.finished, report.steps) == (True, 4)


def test_validating_on_what_was_trained_on_is_said(world: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    _train({**world, "validation": world["sources"][0]}, tmp_path / "run", said=said)
    assert any("8 of them are trained on too" in line for line in said)


@pytest.mark.parametrize("change", [{"global_batch": 8}, {"global_batch": 2, "images_per_device": 2}])
def test_a_run_resumed_with_another_batch_goes_through_the_epochs_that_are_left(
    world: dict[str, Any], tmp_path: Path, change: dict[str, int]
) -> None:
    before = _train({**world, "epochs": 1}, tmp_path / "run")
    after = _train({**world, "epochs": 3, **change}, tmp_path / "run", resume=True)
    assert after.finished
    assert after.images - before.images == 16


def test_data_that_is_forgotten_on_resume_is_said(
    world: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_people(tmp_path / "other", images=4)
    _train({**world, "epochs": 1}, tmp_path / "run", data=other)
    _train(world, tmp_path / "run", resume=True)
    assert "sources" in caplog.text


def test_another_optimiser_does_not_take_up_a_checkpoint(world: dict[str, Any], tmp_path: Path) -> None:
    muon = {**world, "optimiser": {**world.get("optimiser", {}), "kind": "muon"}}
    _train({**world, "epochs": 1}, tmp_path / "adam")
    _train({**muon, "epochs": 1}, tmp_path / "muon")
    for document, folder in ((muon, "adam"), (world, "muon")):
        with pytest.raises(CheckpointError, match="another optimiser") as caught:
            _train(document, tmp_path / folder, resume=True)
        assert "--init" in str(caught.value)


def test_options_of_the_optimiser_are_the_recipes_after_a_resume(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train({**world, "epochs": 1}, tmp_path / "run")
    seen: set[float] = set()
    original = Stepper.step

    def spy(self: Stepper, batches: Any, rate: float) -> Any:
        seen.update(group["weight_decay"] for group in self.learner.optimiser.param_groups)
        return original(self, batches, rate)

    monkeypatch.setattr(Stepper, "step", spy)
    _train({**world, "optimiser": {**world.get("optimiser", {}), "weight_decay": 0.125}}, tmp_path / "run", resume=True)
    assert seen == {0.125}


def test_an_average_begun_on_resume_starts_at_what_was_trained(world: dict[str, Any], tmp_path: Path) -> None:
    _train(world, tmp_path / "run")
    trained = load_model(checkpoint=tmp_path / "run" / "final.safetensors").state_dict()
    report = _train({**world, "ema": 0.999}, tmp_path / "run", resume=True)
    assert report.finished
    after = load_model(checkpoint=tmp_path / "run" / "final.safetensors").state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(after[name], tensor, msg=name)


def test_where_nobody_counts_no_weights_are_the_best(world: dict[str, Any], tmp_path: Path) -> None:
    annotations = Path(world["sources"][0]["path"]) / "annotations" / "person_keypoints_val2017.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    said: list[str] = []
    report = _train(world, tmp_path / "run", said=said)
    assert report.best_ap is None
    assert report.weights == tmp_path / "run" / "final.safetensors"
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert any("AP is undefined" in line for line in said)


def test_weights_may_be_read_by_whom_the_umask_lets(world: dict[str, Any], tmp_path: Path) -> None:
    report = _train({**world, "epochs": 1}, tmp_path / "run")
    assert report.weights is not None
    assert report.weights.stat().st_mode == (tmp_path / "run" / "recipe.yaml").stat().st_mode


@pytest.mark.parametrize("part", ["network", "position", "recipe", "random", "optimiser", "average_updates"])
@pytest.mark.parametrize("value", [None, "gone"])
def test_a_damaged_checkpoint_says_how_to_go_on(
    world: dict[str, Any], tmp_path: Path, part: str, value: str | None
) -> None:
    world = {**world, "epochs": 1, "ema": 0.9}
    _train(world, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    if value is None:
        del state[part]
    else:
        state[part] = value
    torch.save(state, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError):
        _train(world, tmp_path / "run", resume=True)


def test_freezing_everything_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left to train"):
        _train({**world, "frozen": [""]}, tmp_path / "run")


def test_a_run_is_not_overwritten_and_nothing_is_resumed_from_nowhere(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        _train(world, tmp_path / "run", resume=True)
    _train({**world, "epochs": 1}, tmp_path / "run")
    with pytest.raises(InputError, match="already holds a training run"):
        _train(world, tmp_path / "run")


def test_two_runs_do_not_share_a_folder(world: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / ".lock", wait=False), pytest.raises(InputError, match="Another training is at work"):
        _train(world, tmp_path / "run")


def test_weights_that_a_resumed_run_does_not_read_are_named(world: dict[str, Any], tmp_path: Path) -> None:
    _train({**world, "epochs": 1}, tmp_path / "run")
    told: list[str] = []
    _train({**world, "epochs": 2}, tmp_path / "run", resume=True, init="default", said=told)
    assert any("default is not read" in line for line in told)


def test_a_time_budget_ends_the_run(world: dict[str, Any], tmp_path: Path) -> None:
    report = _train({**world, "epochs": 100_000, "budget_minutes": 0.02, "validate_every": 100_000}, tmp_path / "run")
    assert report.finished
    assert report.steps < 10_000
    assert report.best_ap is not None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_finite_weights(world: dict[str, Any], tmp_path: Path, precision: str) -> None:
    report = _train({**world, "precision": precision, "epochs": 1}, tmp_path / "run")
    assert report.weights is not None
    assert all(torch.isfinite(value).all() for value in load_model(checkpoint=report.weights).state_dict().values())


@pytest.mark.parametrize(("native", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_not_emulated(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, kind: torch.dtype
) -> None:
    from hhrnet_deploy.train import arithmetic, step

    seen: set[torch.dtype] = set()
    loss = step.total_loss

    def watched(coarse: torch.Tensor, *others: Any) -> Any:
        seen.add(coarse.dtype)
        return loss(coarse, *others)

    monkeypatch.setattr(step, "total_loss", watched)
    for module in (arithmetic, training):
        monkeypatch.setattr(module, "has_bf16", lambda _device: native)
    said: list[str] = []
    _train({**world, "precision": "bf16", "epochs": 1}, tmp_path / "run", said=said)
    assert seen == {kind}
    assert any("computed in float32" in line for line in said) != native
