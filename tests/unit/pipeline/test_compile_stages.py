"""``hhrnet compile``: every stage once for the same inputs, and again for other ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_photos import write_coco
from typer.testing import CliRunner

import hhrnet_deploy
from hhrnet_deploy.cli.app import app
from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.run import evaluate as evaluate_in_full
from hhrnet_deploy.files import part_of
from hhrnet_deploy.pipeline.cache import StageCache, stage_key
from hhrnet_deploy.pipeline.compile import Compiled, CompileOptions, compile_checkpoint
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.targets.bundle import read_bundle

STAGES = ["export", "build", "evaluate", "report"]


def _compile(checkpoint: Path, folder: Path, data: Path, *, target: str = "onnxruntime", **given: Any) -> Compiled:
    options = CompileOptions(
        spec=EngineSpec(target=target, precision=given.pop("precision", "fp32")), pairs=0, flip=False, pictures=2
    )
    return compile_checkpoint(checkpoint, folder, open_dataset(data), options, **given)


def _done(made: Compiled) -> list[str]:
    return [run.name for run in made.stages if not run.cached]


@pytest.fixture(scope="module")
def compiled(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(checkpoint, output folder, data) of a compilation that is complete."""
    root = tmp_path_factory.mktemp("compiled")
    data, folder = write_coco(root / "data"), root / "out"
    assert _done(_compile(tiny_checkpoint, folder, data)) == STAGES
    return tiny_checkpoint, folder, data


@pytest.mark.xdist_group("compiled")
def test_a_second_run_takes_every_stage_from_the_cache(compiled: tuple[Path, Path, Path]) -> None:
    checkpoint, folder, data = compiled
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "lock"}
    lines: list[str] = []
    made = _compile(checkpoint, folder, data, note=lines.append)
    assert _done(made) == []
    assert [line for line in lines if line.endswith("from cache")] == [f"{name}: from cache" for name in STAGES]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert made.evaluation.subject.metrics["AP"] is not None


@pytest.mark.xdist_group("compiled")
def test_what_changed_is_done_again_and_nothing_before_it(compiled: tuple[Path, Path, Path]) -> None:
    checkpoint, folder, data = compiled
    assert _done(_compile(checkpoint, folder, data, target="openvino")) == ["build", "evaluate", "report"]
    assert _done(_compile(checkpoint, folder, data)) == ["build", "evaluate", "report"]


@pytest.mark.xdist_group("compiled")
def test_an_edited_output_is_made_again(compiled: tuple[Path, Path, Path]) -> None:
    checkpoint, folder, data = compiled
    report = folder / "report.html"
    whole = report.read_text()
    report.write_text(whole[:1000])
    assert _done(_compile(checkpoint, folder, data)) == ["report"]
    assert report.read_text() == whole
    (folder / "heads.onnx").unlink()
    assert "export" in _done(_compile(checkpoint, folder, data))
    assert (folder / "heads.onnx").is_file()


@pytest.mark.xdist_group("compiled")
def test_another_photo_under_the_same_name_is_evaluated_again(
    compiled: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    checkpoint, folder, original = compiled
    data = write_coco(tmp_path / "data")
    assert _done(_compile(checkpoint, folder, data)) == ["report"], "the folder's name alone is shown, not used"
    photo = next((data / "images" / "val2017").iterdir())
    cv2.imwrite(str(photo), np.zeros((64, 96, 3), np.uint8))
    assert _done(_compile(checkpoint, folder, data)) == ["evaluate", "report"]
    assert _done(_compile(checkpoint, folder, original)) == ["evaluate", "report"]


def test_an_interrupted_evaluation_goes_on_at_its_last_image(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data, folder = write_coco(tmp_path / "data", 4), tmp_path / "out"
    seen: list[tuple[int, str]] = []

    @contextmanager
    def stops_at_two(title: str, total: int | None) -> Any:
        def advance(done: int, note: str = "") -> None:
            if done == 2:
                raise KeyboardInterrupt

        yield advance

    @contextmanager
    def watches(title: str, total: int | None) -> Any:
        yield lambda done, note="": seen.append((done, note))

    with pytest.raises(KeyboardInterrupt):
        _compile(tiny_checkpoint, folder, data, progress=stops_at_two)
    made = _compile(tiny_checkpoint, folder, data, progress=watches)
    assert _done(made) == ["evaluate", "report"]
    assert seen[0] == (2, "continued")
    assert made.evaluation.images == 4


def _pre(report: str) -> str:
    """The command lines of a report."""
    return "\n".join(re.findall(r"<pre[^>]*>(.*?)</pre>", Path(report).read_text(), re.DOTALL))


def test_the_command_prints_one_document(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", 2)
    words = ["compile", str(tiny_checkpoint), "--precision", "fp32", "--data", str(data), "--pairs", "1", "--json"]
    words += ["--limit", "2"]
    words += ["--target", "onnxruntime", "--no-flip", "-o", str(tmp_path / "out"), "--max-ap-drop", "0.5"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [stage["name"] for stage in document["stages"]] == ["export", "build", "evaluate", "bench", "report"]
    assert [row["label"] for row in document["bench"]["rows"]] == ["engine", "PyTorch"]
    assert document["drop"]["AP"] == pytest.approx(0, abs=0.01)
    commands = _pre(document["report"]).splitlines()
    assert [command.split()[1] for command in commands] == ["compile", "export", "build", "eval", "bench"]
    assert f"--data {data} --limit 2 --max-ap-drop 0.5 --no-flip -o {tmp_path / 'out'}" in commands[0]


def test_the_report_names_the_spec_it_was_made_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data, spec = write_coco(tmp_path / "data", 1), tmp_path / "mine.yaml"
    spec.write_text("target: onnxruntime\nprecision: fp32\nsize: 64x128\nbatch: 1\ninput: float\n")
    words = ["compile", str(tiny_checkpoint), "--spec", str(spec), "--data", str(data), "--pairs", "0", "--no-flip"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    commands = _pre(json.loads(done.stdout)["report"]).splitlines()
    assert f"--spec {spec} --precision fp32 --data" in commands[0]
    assert "--target" not in commands[0]
    assert "--size 64x128 --batch 1 --input float" in commands[1]


def test_an_undefined_drop_fails_the_gate_after_the_report(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", 1)
    annotations = data / "annotations" / "person_keypoints_val2017.json"
    document = json.loads(annotations.read_text()) | {"annotations": []}
    annotations.write_text(json.dumps(document))
    words = ["compile", str(tiny_checkpoint), "--precision", "fp32", "--data", str(data), "--pairs", "0", "--no-flip"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--max-ap-drop", "0.5"])
    assert type(done.exception).__name__ == "GateFailedError"
    assert (tmp_path / "out" / "report.html").is_file()


def _int8_words(checkpoint: Path, data: Path, folder: Path, limit: str) -> list[str]:
    photos = data / "images" / "val2017"
    words = ["compile", str(checkpoint), "--target", "onnxruntime", "--data", str(data), "--pairs", "0", "--no-flip"]
    return [*words, "--calibration", f"{photos}:2", "-o", str(folder), "--max-ap-drop", limit, "--json"]


def test_int8_is_calibrated_and_keeps_its_budget(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.pipeline import budget

    monkeypatch.setenv("HHRNET_CACHE", str(tmp_path / "cache"))
    flips: list[bool] = []

    def evaluate(*subjects: Any, config: InferenceConfig, **others: Any) -> Any:
        flips.append(config.decode.flip)
        return evaluate_in_full(*subjects, config=config, **others)

    monkeypatch.setattr(budget, "evaluate", evaluate)
    data, folder = write_coco(tmp_path / "data", 2), tmp_path / "out"
    words = _int8_words(tiny_checkpoint, data, folder, "1")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [stage["name"] for stage in document["stages"]] == ["export", "calibrate", "build", "evaluate", "report"]
    quantization = read_bundle(folder / "engine").manifest.quantization
    assert quantization is not None
    assert quantization.budget is not None
    assert quantization.calibration.images == 2
    # The search measures as the evaluation does: without the flip test.
    assert flips == [False, False]
    assert 'id="sensitivity"' in (folder / "report.html").read_text()
    again = json.loads(CliRunner().invoke(app, words).stdout)
    assert all(stage["cached"] for stage in again["stages"])


@pytest.mark.slow
def test_a_budget_that_cannot_be_kept_still_gets_a_report(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HHRNET_CACHE", str(tmp_path / "cache"))
    data, folder = write_coco(tmp_path / "data", 2), tmp_path / "out"
    annotations = data / "annotations" / "person_keypoints_val2017.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    done = CliRunner().invoke(app, _int8_words(tiny_checkpoint, data, folder, "0.5"))
    assert type(done.exception).__name__ == "GateFailedError"
    assert "every layer in int8" in done.stderr
    assert "NOT kept" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.pth", "--precision", "fp32"], "missing.pth"),
        (["default", "--target", "abacus"], "abacus"),
        (["default", "--target", "onnxruntime", "--precision", "bf16"], "bf16"),
    ],
)
def test_mistakes_are_named_before_any_work(tmp_path: Path, words: list[str], message: str) -> None:
    data = write_coco(tmp_path / "data", 1)
    done = CliRunner().invoke(app, ["compile", *words, "--data", str(data), "-o", str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert not (tmp_path / "out" / "heads.onnx").exists()


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    left = part_of(tmp_path / "heads.onnx")
    others = [tmp_path / "heads.onnx", tmp_path / ".my.party.part.txt"]
    for path in (left, *others):
        path.touch()
    with StageCache(tmp_path):
        assert not left.exists()
        assert all(path.exists() for path in others)


def test_a_file_in_the_place_of_the_folder_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", 1)
    with pytest.raises(InputError, match=r"The output folder .* is a file"):
        _compile(tiny_checkpoint, tiny_checkpoint, data)


def test_missing_photos_are_named_before_the_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", 2)
    next((data / "images" / "val2017").iterdir()).unlink()
    with pytest.raises(InputError, match="1 of 2 photos are missing"):
        _compile(tiny_checkpoint, tmp_path / "out", data)
    assert not (tmp_path / "out" / "heads.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["export", "build"])
def test_a_killed_run_resumes_behind_its_last_stage(tiny_checkpoint: Path, tmp_path: Path, stage: str) -> None:
    data, folder = write_coco(tmp_path / "data", 2), tmp_path / "out"
    code = (
        "import sys; from hhrnet_deploy.cli.app import main; sys.argv = ['hhrnet', 'compile', "
        f"{str(tiny_checkpoint)!r}, '--precision', 'fp32', '--target', 'onnxruntime', '--data', {str(data)!r}, "
        f"'--no-flip', '--pairs', '0', '-o', {str(folder)!r}]; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(hhrnet_deploy.__file__ or "").parents[1])},
    )
    while not (folder / ".cache" / f"{stage}.json").exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = _done(_compile(tiny_checkpoint, folder, data))
    assert done == STAGES[STAGES.index(stage) + 1 :]


def test_stages_depend_on_their_name_and_inputs_not_on_their_order() -> None:
    key = stage_key("build", {"a": 1, "b": [2]})
    assert key == stage_key("build", {"b": [2], "a": 1})
    assert key != stage_key("export", {"a": 1, "b": [2]})
    assert key != stage_key("build", {"a": 1, "b": [3]})


def test_a_damaged_record_means_doing_the_stage_again(tmp_path: Path) -> None:
    calls: list[int] = []
    with StageCache(tmp_path) as stages:
        stages.run("one", {}, lambda: calls.append(1))
        record = tmp_path / ".cache" / "one.json"
        record.write_text(record.read_text()[:-20])
        stages.run("one", {}, lambda: calls.append(1))
        stages.run("one", {}, lambda: calls.append(1))
    assert len(calls) == 2


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    with StageCache(tmp_path) as stages:
        with pytest.raises(ZeroDivisionError):
            stages.run("one", {}, lambda: 1 // 0)
        assert stages.find("one", {}) is None


def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    with StageCache(tmp_path), pytest.raises(InputError, match="Another hhrnet compile"), StageCache(tmp_path):
        pass
    with StageCache(tmp_path):
        pass
