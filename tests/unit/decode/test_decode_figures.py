"""Measurements of the decoder, written to docs (make figures); never in CI."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_launch_table import CSRC, read_resources

import hhrnet_deploy
from hhrnet_deploy.files import write_text

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGE_ROOT = str(Path(hhrnet_deploy.__file__).parents[1])

pytestmark = pytest.mark.figures


def record(section: str, figures: dict) -> None:
    """Put one section into docs/figures.json."""
    path = ROOT / "docs" / "figures.json"
    document = json.loads(path.read_text()) if path.is_file() else {}
    document[section] = figures
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


@pytest.mark.skipif("HHRNET_OFFICIAL" not in os.environ, reason="HHRNET_OFFICIAL is not set")
def test_decode_beside_the_official_post_processing() -> None:
    environment = {**os.environ, "PYTHONPATH": PACKAGE_ROOT}
    command = [sys.executable, str(HERE / "measure_decode.py"), "15"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    record("decode", figures)
    assert figures["modes"]["5_people_512x512"]["times_faster"] >= 100
    assert figures["modes"]["20_people_704x512_flip"]["times_faster"] >= 60


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_kernel_resources(tmp_path: Path) -> None:
    report = {}
    for capability in ("75", "80", "90", "120"):
        flags = ["-std=c++17", "-O3", "--fmad=false", f"-arch=sm_{capability}", "-cubin", "-Xptxas", "-v"]
        command = ["nvcc", *flags, str(CSRC / "kernels.cu"), "-o", str(tmp_path / "kernels.cubin")]
        built = subprocess.run(command, check=True, capture_output=True, text=True)
        report[f"sm_{capability}"] = read_resources(built.stderr)
    record("kernel_resources", report)
    assert all(used["shared_bytes"] < 48 * 1024 for kernels in report.values() for used in kernels.values())
