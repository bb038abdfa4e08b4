from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.model.presets import PRESETS, find_preset


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom hhrnet_deploy.cli.app import app\n"
        "try:\n    app(['models', '--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_table_lists_every_preset() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    for text in (*PRESETS, "46.2 (47.9)", "67.1 / 69.9", "pose_higher_hrnet_w32_512.pth", "hrnet_w48-8ef0771d.pth"):
        assert text in result.stdout


def test_json_holds_figures_and_official_keys(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    presets = {entry["name"]: entry for entry in json.loads(result.stdout)["presets"]}
    assert list(presets) == list(PRESETS)
    entry = presets["w32_512"]
    assert entry["multiply_adds"] == 46_203_404_288
    assert entry["published"]["multiply_adds_g"] == 47.9
    assert (entry["published"]["ap_single"], entry["published"]["ap_multi"]) == (67.1, 69.9)
    assert entry["official_files"]["checkpoint"] == "pose_higher_hrnet_w32_512.pth"
    assert entry["config"]["MODEL"]["EXTRA"]["STAGE4"]["NUM_CHANNELS"] == [32, 64, 128, 256]
    file = tmp_path / "back.yaml"
    file.write_text(yaml.safe_dump(entry["config"]))
    assert find_preset(file) is PRESETS["w32_512"]


def test_an_experiment_file_is_listed(tmp_path: Path) -> None:
    config = PRESETS["small_256"].official_config()
    config["DATASET"]["INPUT_SIZE"] = 300  # inference rounds up to 320
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["models", "--preset", str(file), "--json"])
    (entry,) = json.loads(result.stdout)["presets"]
    assert (entry["name"], entry["input"]) == ("mine", 300)
    small = json.loads(CliRunner().invoke(app, ["models", "--preset", "small_256", "--json"]).stdout)["presets"][0]
    assert entry["multiply_adds"] * 256**2 == small["multiply_adds"] * 320**2


def test_unknown_preset_is_an_input_error() -> None:
    result = CliRunner().invoke(app, ["models", "--preset", "w99"])
    assert isinstance(result.exception, InputError)
    with pytest.raises(InputError, match="w99"):
        raise result.exception
