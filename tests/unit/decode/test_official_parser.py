"""The people of the official parser, where its code is at hand (HHRNET_OFFICIAL names the checkout)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hhrnet_deploy

HERE = Path(__file__).parent
PACKAGE_ROOT = str(Path(hhrnet_deploy.__file__).parents[1])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("HHRNET_OFFICIAL" not in os.environ, reason="HHRNET_OFFICIAL is not set"),
]


@pytest.mark.parametrize("seed", [101, 102])
def test_random_fields_have_the_same_people(seed: int) -> None:
    """In a process of its own, because ATEN_CPU_CAPABILITY counts only before PyTorch is loaded."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": PACKAGE_ROOT}
    command = [sys.executable, str(HERE / "compare_official.py"), "80", str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    compared = json.loads(done.stdout)
    assert compared["people"] > 500
    assert compared["unexplained"] == []
