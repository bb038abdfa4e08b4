"""What becomes of a run and its loading processes when one of them dies or the run fails."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from train_world import recipe_document, write_people, write_preset

from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.handover import Handover
from hhrnet_deploy.train.recipe import parse_recipe
from hhrnet_deploy.train.records import StepRecord, ValidationRecord
from hhrnet_deploy.train.samples import Ticket, TrainingSet
from hhrnet_deploy.train.sources import open_training_sources

HERE = Path(__file__).parent
_FAILING = """
import sys
from hhrnet_deploy.pipeline.training import TrainingOptions, train
from hhrnet_deploy.train.recipe import load_recipe
from pathlib import Path
class Failing:
    def stepped(self, record): raise ZeroDivisionError("not one of ours")
    def validated(self, record): pass
    def closed(self): pass
if __name__ == "__main__":
    train(load_recipe(sys.argv[1]), TrainingOptions(folder=Path(sys.argv[2])), watchers=(Failing(),))
"""


class _Killer:
    """Kills the loading processes at step 2."""

    def stepped(self, record: StepRecord) -> None:
        if record.step == 2:
            for process in multiprocessing.active_children():
                process.kill()

    def validated(self, record: ValidationRecord) -> None:
        del record

    def closed(self) -> None:
        pass


def test_a_killed_one_ends_the_run_and_is_named(tmp_path: Path) -> None:
    data = write_people(tmp_path / "data", images=8)
    document = recipe_document(write_preset(tmp_path / "tiny.yaml"), data, epochs=999, workers=1)
    recipe = parse_recipe(document, name="test")
    with pytest.raises(HHRNetError, match="loads images was ended from outside: DataLoader worker") as caught:
        train(recipe, TrainingOptions(folder=tmp_path / "run"), watchers=(_Killer(),), say=lambda _: None)
    assert "--resume" in (caught.value.hint or "")
    assert multiprocessing.active_children() == []


def _describe(samples: TrainingSet, answer: Path) -> None:
    answer.write_text(f"{type(samples).__name__} {len(samples)} {samples[Ticket(0, 3)].image.sum()}")


def test_a_set_reaches_several_processes_through_one_file(tmp_path: Path) -> None:
    data = write_people(tmp_path / "data", images=8)
    recipe = parse_recipe(recipe_document(write_preset(tmp_path / "tiny.yaml"), data), name="test")
    samples = TrainingSet(open_training_sources(recipe.sources, lambda _: None), recipe)
    handover = Handover(samples)
    spawn = multiprocessing.get_context("spawn")
    answers = [tmp_path / f"answer{number}" for number in range(2)]
    processes = [spawn.Process(target=_describe, args=(handover, answer)) for answer in answers]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    expected = f"TrainingSet {len(samples)} {samples[Ticket(0, 3)].image.sum()}"
    assert [answer.read_text() for answer in answers] == [expected, expected]


def test_none_is_waited_for_after_an_error_that_nobody_expected(tmp_path: Path) -> None:
    """The traceback holds on to the loader; Python waits for its processes before it lets go."""
    data = write_people(tmp_path / "data", images=8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_document(write_preset(tmp_path / "tiny.yaml"), data, workers=1)))
    script = tmp_path / "failing.py"
    script.write_text(_FAILING)
    done = subprocess.run(
        [sys.executable, str(script), str(recipe), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError: not one of ours" in done.stderr
