"""SIGTERM ends the step at hand and writes the checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from train_world import recipe_document, write_people, write_preset

from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.recipe import parse_recipe
from hhrnet_deploy.train.records import StepRecord, ValidationRecord


class _Terminator:
    def stepped(self, record: StepRecord) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, record: ValidationRecord) -> None:
        del record

    def closed(self) -> None:
        pass


def test_sigterm_writes_the_checkpoint_and_says_unfinished(tmp_path: Path) -> None:
    data = write_people(tmp_path / "data", images=8)
    recipe = parse_recipe(recipe_document(write_preset(tmp_path / "tiny.yaml"), data, epochs=5), name="test")
    before = signal.getsignal(signal.SIGTERM)
    report = train(recipe, TrainingOptions(folder=tmp_path / "run"), watchers=(_Terminator(),), say=lambda _: None)
    assert not report.finished
    assert report.steps == 3
    position = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]
    assert (position["step"], position["epoch"], position["step_in_epoch"]) == (3, 1, 1)
    assert signal.getsignal(signal.SIGTERM) == before
    assert train(recipe, TrainingOptions(folder=tmp_path / "run", resume=True), say=lambda _: None).steps == 10
