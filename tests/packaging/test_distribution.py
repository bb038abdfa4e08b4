"""What gets installed: one importable package, its data files, one command. Run against the installed distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _files() -> list[PurePosixPath]:
    files = [PurePosixPath(str(file)) for file in distribution("hhrnet-deploy").files or []]
    if not any(file.name == "errors.py" for file in files):
        pytest.skip("an editable install has no files of its own; `make test` installs the wheel")
    return files


def test_the_only_top_level_name_is_the_package() -> None:
    tops = {file.parts[0] for file in _files() if not file.parts[0].startswith("..")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hhrnet_deploy"}


def test_every_source_file_is_installed() -> None:
    installed = {str(file) for file in _files()}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "hhrnet_deploy").rglob("*.py")}
    expected |= {"hhrnet_deploy/py.typed", "hhrnet_deploy/decode/_native.pyi"}
    expected |= {"hhrnet_deploy/pipeline/report_template.html"}
    assert expected - installed == set()


def test_recipes_specs_and_manifests_are_installed_as_data() -> None:
    installed = {str(file) for file in _files()}
    for folder, suffix in (("training/recipes", ".yaml"), ("engines/specs", ".yaml"), ("calibration", ".json")):
        shipped = {path.name for path in (ROOT / folder).glob(f"*{suffix}")}
        assert shipped, folder
        assert {f"hhrnet_deploy/resources/{folder}/{name}" for name in shipped} <= installed


def test_the_shipped_model_is_installed_and_small() -> None:
    weights = [file for file in _files() if file.suffix == ".safetensors"]
    assert [file.name for file in weights] == ["default.safetensors"]
    assert (ROOT / weights[0]).stat().st_size <= 6 * 1024 * 1024


def test_the_command_runs_in_an_empty_folder(tmp_path: Path) -> None:
    command = shutil.which("hhrnet", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run([command, "models", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "w32_512" in done.stdout


def test_shipped_names_resolve_outside_the_checkout(tmp_path: Path) -> None:
    code = (
        "from hhrnet_deploy import resources as r;"
        "print(*[len(r.names(kind)) for kind in (r.RECIPE, r.SPEC, r.CALIBRATION)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(int(count) > 0 for count in done.stdout.split())
