from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from photo_world import KnowingRunner, World

from hhrnet_deploy.cli import app
from hhrnet_deploy.model.presets import find_preset
from hhrnet_deploy.people import People

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world() -> World:
    return World(16, seed=2)


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`hhrnet eval ARGUMENTS` in an empty folder with data in ./data: (exit code, stdout, stderr)."""
    world.write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def open_model(what: str | Path, preset: str | None = None, **_: Any) -> KnowingRunner:
        kind = "engine" if Path(what).is_dir() else "checkpoint"
        return KnowingRunner(world, name=Path(what).name, kind=kind, change=_CHANGES.get(str(what), _same))

    monkeypatch.setattr("hhrnet_deploy.targets.opening.open_model", open_model)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hhrnet", "eval", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def _same(number: int, people: People) -> People:
    return people


def _lossy(number: int, people: People) -> People:
    return people.select(np.arange(len(people)) > 0) if number < 4 else people


def _interrupt(number: int, people: People) -> People:
    if number == 6:
        raise KeyboardInterrupt
    return people


def _blind(number: int, people: People) -> People:
    return people.select(np.zeros(len(people), bool))


_CHANGES = {"blind": _blind, "lossy": _lossy, "interrupt": _interrupt}


def _bundle(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "manifest.json").write_text("{}")


def test_the_table_has_all_figures(run: Run) -> None:
    code, out, _ = run("--checkpoint", "default", "--data", "data")
    assert code == 0
    for name in ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"):
        assert name in out
    assert "1.0000" in out
    assert "flip test" in out


def test_json_is_the_only_thing_on_stdout(run: Run) -> None:
    code, out, _ = run("--checkpoint", "default", "--data", "data", "--reference", "lossy", "--json")
    document = json.loads(out)
    assert code == 0
    assert set(document) == {"checkpoint", "reference", "drop", "agreement", "images"}
    assert document["checkpoint"]["metrics"]["AP"] == pytest.approx(1.0)
    assert document["drop"]["AP"] < 0
    assert len(document["drop"]["interval"]) == 2


def test_a_drop_beyond_the_gate_exits_with_three_after_the_table(run: Run) -> None:
    arguments = ("--checkpoint", "lossy", "--data", "data", "--reference", "default")
    code, out, err = run(*arguments, "--max-ap-drop", "0.001", "--json")
    assert code == 3
    assert json.loads(out)["drop"]["AP"] > 0.001
    assert "allowed are 0.001" in err
    code, out, _ = run(*arguments, "--max-ap-drop", "0.9")
    assert code == 0
    assert "interval" in out
    assert "different people" in out


def test_a_reference_that_finds_nothing_right_is_said_to_prove_nothing(run: Run) -> None:
    arguments = ("--checkpoint", "default", "--data", "data")
    assert "no drop can show" in run(*arguments, "--reference", "blind", "--max-ap-drop", "0")[2]
    assert "no drop can show" not in run(*arguments, "--reference", "lossy")[2]


def test_contradicting_options_are_usage_errors(run: Run) -> None:
    assert run("--data", "data", "--max-ap-drop", "0.1")[0] == 2
    assert run("--data", "data", "--checkpoint", "a", "--engine", "b")[0] == 2


def test_the_newest_bundle_in_engines_is_the_default(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--data", "data", "--json")
    assert code == 0
    assert json.loads(out)["checkpoint"]["name"] == "default"
    assert "no engine in ./engines" in err
    _bundle(tmp_path / "engines", "old")
    _bundle(tmp_path / "engines", "new")
    os.utime(tmp_path / "engines" / "new" / "manifest.json", (1, 1))
    code, out, err = run("--data", "data", "--json")
    assert json.loads(out)["engine"]["name"] == "old"
    assert "newest engine" in err


def test_an_engine_that_is_no_bundle_is_refused(run: Run) -> None:
    code, _, err = run("--engine", "data", "--data", "data")
    assert code == 1
    assert "no engine bundle" in err


def test_the_results_go_to_a_file_or_a_folder(run: Run, tmp_path: Path) -> None:
    assert run("--checkpoint", "default", "--data", "data", "-o", "people.json")[0] == 0
    assert run("--checkpoint", "default", "--data", "data", "-o", "out")[0] == 0
    first = json.loads((tmp_path / "people.json").read_text())
    assert first == json.loads((tmp_path / "out" / "keypoints_val2017_results.json").read_text())
    assert not list(tmp_path.rglob("*.jsonl"))


def test_test_dev_writes_its_official_file_and_says_that_there_is_no_ap(run: Run, tmp_path: Path) -> None:
    annotations = tmp_path / "data" / "annotations"
    document = json.loads((annotations / "person_keypoints_val2017.json").read_text())
    del document["annotations"]
    (annotations / "image_info_test-dev2017.json").write_text(json.dumps(document))
    (tmp_path / "data" / "images" / "val2017").rename(tmp_path / "data" / "images" / "test2017")
    code, out, _ = run("--checkpoint", "default", "--data", "data", "--split", "test-dev2017")
    assert code == 0
    assert "no AP" in out
    assert json.loads((tmp_path / "keypoints_test-dev2017_results.json").read_text())


def test_ctrl_c_leaves_partial_results_that_resume_continues(run: Run, tmp_path: Path) -> None:
    partial = tmp_path / "keypoints_val2017_results.partial.jsonl"
    code, _, err = run("--checkpoint", "interrupt", "--data", "data")
    assert code == 130
    assert partial.name in err
    assert "--resume" in err
    lines = len(partial.read_text().splitlines())
    assert lines > 3

    # Another model may not continue it.
    code, _, err = run("--checkpoint", "default", "--data", "data", "--resume")
    assert code == 1
    assert "different run" in err
    assert len(partial.read_text().splitlines()) == lines

    _CHANGES["interrupt"] = _same
    code, out, _ = run("--checkpoint", "interrupt", "--data", "data", "--resume", "--json")
    _CHANGES["interrupt"] = _interrupt
    assert code == 0
    assert json.loads(out)["checkpoint"]["metrics"]["AP"] == pytest.approx(1.0)
    assert not partial.exists()


def test_settings_reach_the_decoder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = KnowingRunner.people

    def people(self: KnowingRunner, images: Any, config: Any = None, **options: Any) -> list[People]:
        seen.append((len(images), config, options["decoder"]))
        return original(self, images, config, **options)

    monkeypatch.setattr(KnowingRunner, "people", people)
    code, out, _ = run(
        *("--checkpoint", "default", "--data", "data", "--limit", "2", "--scales", "0.5,1,2", "--no-flip"),
        *("--detection-threshold", "0.2", "--no-refine", "--tag-threshold", "2", "--decoder", "reference"),
    )
    assert code == 0
    scales, config, decoder = seen[0]
    assert (scales, decoder, config.flip, config.refine, config.adjust) == (3, "reference", False, False, True)
    assert (config.detection_threshold, config.tag_threshold) == (0.2, 2.0)
    assert "no flip test" in out
    assert "detection_threshold 0.2" in out
    assert "scales 0.5, 1, 2" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--scales", "0.5,2"), "scale 1"),
        (("--nms-kernel", "4"), "odd"),
        (("--split", "nothing"), "nothing"),
        (("--max-long-side", "100"), "at most 100"),
    ],
)
def test_wrong_settings_are_errors_with_a_reason(run: Run, arguments: tuple[str, str], expected: str) -> None:
    code, out, err = run("--checkpoint", "default", "--data", "data", *arguments)
    assert (code, out) == (1, "")
    assert expected in err


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)
    before = sorted(tmp_path.iterdir())
    code, _, err = run("--checkpoint", "interrupt", "--data", "data", "--json")
    assert code == 130
    assert "cannot be resumed" in err
    assert "short side" in err
    assert sorted(tmp_path.iterdir()) == before


def test_settings_of_an_experiment_file_that_are_not_used_are_named(run: Run, tmp_path: Path) -> None:
    config = find_preset("w32_512").official_config()
    config["TEST"] |= {"FLIP_TEST": False, "DETECTION_THRESHOLD": 0.35, "SCALE_FACTOR": [0.5, 1, 2]}
    (tmp_path / "mine of us.yaml").write_text(yaml.safe_dump(config))
    _, _, err = run("--checkpoint", "default", "--preset", "mine of us.yaml", "--data", "data")
    assert "TEST in mine of us.yaml asks for" in err
    for asked in ("flip False", "detection_threshold 0.35", "scales 0.5, 1, 2"):
        assert asked in err


def test_a_preset_without_a_checkpoint_is_said_to_be_unused(run: Run, tmp_path: Path) -> None:
    _bundle(tmp_path / "engines", "mine")
    words = ("--engine", "engines/mine", "--preset", "small_256", "--data", "data")
    assert "--preset small_256 is not used" in run(*words)[2]
    assert "--preset" not in run(*words, "--reference", "default")[2]
