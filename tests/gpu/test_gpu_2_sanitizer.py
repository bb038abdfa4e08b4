"""compute-sanitizer finds nothing in any kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from card import Card
from conftest import missing

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).with_name("run_kernels.py")
FIELDS = Path(__file__).parents[1] / "unit" / "decode"
# Of the whole run, start of Python included; a machine is lent for minutes.
SECONDS = 240
REFUSED = "Device not supported"


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_kernels_are_clean(card: Card, tool: str) -> None:
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        missing("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    done = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", "9", sys.executable, str(SCRIPT), "6"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FIELDS), os.environ.get("PYTHONPATH", "")])},
        timeout=SECONDS,
        check=False,
    )
    print(done.stdout[-6000:])
    if REFUSED in done.stdout:
        pytest.skip(f"compute-sanitizer refuses this machine: {REFUSED}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every kernel as on the host" in done.stdout
