"""A whole run in a second, and what it does when something is wrong."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_world import recipe_document, write_people, write_preset

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.pipeline.training import TrainingOptions, TrainingReport, train
from hhrnet_deploy.skeletons import CROWDPOSE
from hhrnet_deploy.train.recipe import parse_recipe
from hhrnet_deploy.train.step import NotANumberError


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    data = write_people(tmp_path / "data", images=8)
    write_people(data, images=3, seed=1, split="val2017")
    return recipe_document(write_preset(tmp_path / "tiny.yaml"), data)


def _train(document: dict[str, Any], folder: Path, **options: Any) -> TrainingReport:
    return train(parse_recipe(document, name="test"), TrainingOptions(folder=folder, **options), say=lambda _: None)


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
    assert "made for those" in text
    assert "Made anew: final_layers.0, final_layers.1, deconv_layers.0.0.0" in text


def test_a_missing_image_stops_the_run_and_keeps_the_checkpoint(world: dict[str, Any], tmp_path: Path) -> None:
    _train({**world, "epochs": 1}, tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").read_bytes()
    victim = Path(world["sources"][0]["path"]) / "images" / "train2017" / "000000000003.png"
    victim.unlink()
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"000000000003\.png does not exist"):
            _train({**world, "workers": workers}, tmp_path / "run", resume=True)
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


def test_a_full_disk_says_so_and_keeps_the_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.train import state

    _train({**world, "epochs": 1}, tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").read_bytes()

    def full(document: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state.torch, "save", full)
    with pytest.raises(HHRNetError, match="No space left on device") as caught:
        _train(world, tmp_path / "run", resume=True)
    assert "--resume" in str(caught.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*part*"))


def test_a_run_is_not_overwritten_and_nothing_is_resumed_from_nowhere(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        _train(world, tmp_path / "run", resume=True)
    _train({**world, "epochs": 1}, tmp_path / "run")
    with pytest.raises(InputError, match="already holds a training run"):
        _train(world, tmp_path / "run")


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
