"""``hhrnet train`` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from train_world import recipe_document, write_people, write_preset
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app


def test_train_prints_one_document_and_takes_settings(tmp_path: Path) -> None:
    data = write_people(tmp_path / "data", images=4)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(recipe_document(write_preset(tmp_path / "preset.yaml"), data, sources=[])))
    arguments = ["train", "--recipe", str(recipe), "--data", str(data), "-o", str(tmp_path / "run"), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--set", "epochs=1", "--set", "optimiser.lr=1e-4"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["finished"], report["steps"], report["best_ap"]) == (True, 1, None)
    assert report["weights"].endswith("final.safetensors")
    assert "images/s" in result.stderr
    assert "No validation" in result.stderr
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["optimiser"]["lr"] == 1e-4
