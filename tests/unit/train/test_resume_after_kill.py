"""A run killed in mid-epoch and resumed ends with the bits of one that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from train_world import recipe_document, write_people, write_preset

HERE = Path(__file__).parent
SIGKILLED = -9


def _run(recipe: Path, folder: Path, *arguments: str) -> int:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / "run_recipe.py"), str(recipe), str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, SIGKILLED), done.stderr[-3000:]
    return done.returncode


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, torch.Tensor):
        return torch.equal(mine, theirs)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_equal(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(theirs) and all(map(_equal, mine, theirs))
    return bool(mine == theirs)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_killed_and_resumed_is_bit_identical_whatever_the_number_of_workers(tmp_path: Path, kind: str) -> None:
    data = write_people(tmp_path / "data", images=15)
    preset = write_preset(tmp_path / "tiny.yaml")
    whole, stopped = tmp_path / "whole.yaml", tmp_path / "stopped.yaml"
    common = {
        "optimiser": {"kind": kind, "lr": 1e-3, "schedule": "cosine"},
        "epochs": 3,
        "ema": 0.9,
        "channels_last": True,
        "global_batch": 4,
        "images_per_device": 2,
    }
    whole.write_text(yaml.safe_dump(recipe_document(preset, data, **common)))
    # A checkpoint after every step, and loading processes where the other run has none.
    often = {"checkpoint_minutes": 1e-6, "workers": 2}
    stopped.write_text(yaml.safe_dump(recipe_document(preset, data, **common, **often)))

    assert _run(whole, tmp_path / "a") == 0
    assert _run(stopped, tmp_path / "b", "--die-at", "6") == SIGKILLED
    before = torch.load(tmp_path / "b" / "state.pt", weights_only=True)["position"]
    assert (before["step"], before["epoch"], before["step_in_epoch"]) == (5, 1, 2)  # 3 steps an epoch
    assert _run(stopped, tmp_path / "b", "--resume") == 0

    one, other = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in "ab")
    for part in ("network", "average", "average_updates", "optimiser", "random"):
        assert _equal(one[part], other[part]), part
    assert one["position"]["step"] == other["position"]["step"] == 9

    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in "ab"
    ]
    steps = [[(line["step"], line["loss"]) for line in run if "loss" in line] for run in lines]
    assert steps[0] == steps[1]
    assert [step for step, _ in steps[1]] == list(range(1, 10))
