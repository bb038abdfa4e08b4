"""SIGTERM and Ctrl-C end the step at hand and write the checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from train_world import recipe_document, write_people, write_preset

from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.recipe import parse_recipe
from hhrnet_deploy.train.records import StepRecord, ValidationRecord

HERE = Path(__file__).parent


class _Terminator:
    """Sends SIGTERM at step 3, again at once, and again after a pause if one is given."""

    def __init__(self, pause: float | None = None) -> None:
        self.pause = pause

    def stepped(self, record: StepRecord) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            if self.pause is not None:
                time.sleep(self.pause)
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


def test_a_second_signal_after_a_pause_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hhrnet_deploy.train.loop._ECHO_SECONDS", 0.2)
    data = write_people(tmp_path / "data", images=8)
    recipe = parse_recipe(recipe_document(write_preset(tmp_path / "tiny.yaml"), data, epochs=5), name="test")
    before = signal.getsignal(signal.SIGTERM)

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        options = TrainingOptions(folder=tmp_path / "run")
        with pytest.raises(KeyboardInterrupt):
            train(recipe, options, watchers=(_Terminator(pause=0.5),), say=lambda _: None)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_while_the_loading_processes_start_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """As a terminal sends it, to the whole group: they are still importing and must not die of it."""
    data = write_people(tmp_path / "data", images=8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(recipe_document(write_preset(tmp_path / "tiny.yaml"), data, epochs=999, workers=2))
    )
    words = ["hhrnet", "train", "--recipe", str(recipe), "-o", str(tmp_path / "run"), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv = {words!r}; from hhrnet_deploy.cli.app import main; main()"],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _wait_for_child(process.pid, "spawn_main")
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "KeyboardInterrupt" not in err
    assert not json.loads(out)["finished"]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["step"] >= 1


def _wait_for_child(pid: int, word: str) -> None:
    """Until process ``pid`` has a child with ``word`` on its command line."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if word in Path(f"/proc/{child}/cmdline").read_text():
                return
        time.sleep(0.01)
    raise TimeoutError(word)


def test_sigterm_to_torchrun_and_its_processes_writes_the_checkpoint(tmp_path: Path) -> None:
    """As schedulers do: every process gets the signal, and torchrun passes on what it got itself."""
    data = write_people(tmp_path / "data", images=40)
    recipe = tmp_path / "recipe.yaml"
    # With a loading process: torchrun signals whole process groups.
    often = {"epochs": 1000, "validate_every": 1000, "images_per_device": 1, "workers": 1}
    document = recipe_document(write_preset(tmp_path / "tiny.yaml"), data, **often)
    recipe.write_text(yaml.safe_dump(document))
    paths = os.pathsep.join([str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    subprocess.run(
        [*launcher, str(HERE / "run_recipe.py"), str(recipe), str(tmp_path / "run"), "--terminate-at", "3"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["step"] in (3, 4, 5)
