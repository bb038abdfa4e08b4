"""Two processes give the gradients of one process with the whole batch, and end together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent


def _run(script: str, *arguments: str, processes: int) -> None:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    command = [*launcher, str(HERE / script), *arguments]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _probe(out: Path, images_per_device: int, processes: int) -> dict[str, Any]:
    _run("gradient_probe.py", str(out), str(images_per_device), processes=processes)
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _probe(tmp_path_factory.mktemp("alone") / "alone.pt", images_per_device=8, processes=1)


def test_two_processes_give_the_gradients_and_statistics_of_one(alone: dict[str, Any], tmp_path: Path) -> None:
    shared = _probe(tmp_path / "shared.pt", images_per_device=4, processes=2)
    torch.testing.assert_close(shared["parts"], alone["parts"], atol=0, rtol=1e-6)
    assert set(alone["gradients"]) == set(shared["gradients"])
    for name, gradient in alone["gradients"].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(shared["gradients"][name], gradient, atol=1e-9, rtol=1e-5, msg=name)
    for name, value in alone["buffers"].items():
        torch.testing.assert_close(shared["buffers"][name], value, atol=1e-9, rtol=1e-6, msg=name)


def test_the_comparison_notices_statistics_of_half_a_batch(alone: dict[str, Any], tmp_path: Path) -> None:
    """Accumulating two halves in one process normalises each by itself, which must show."""
    halves = _probe(tmp_path / "halves.pt", images_per_device=4, processes=1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            halves["gradients"]["conv2.weight"], alone["gradients"]["conv2.weight"], rtol=1e-5, atol=0
        )


def test_no_process_leaves_before_the_last_one_is_done(tmp_path: Path) -> None:
    """A process that leaves while the others still reduce may be aborted by PyTorch when its interpreter ends."""
    _run("leaving_probe.py", str(tmp_path), processes=2)
    early, late = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert early["done"] < late["done"] <= early["left"]


def test_a_process_whose_partner_failed_at_the_end_says_so(tmp_path: Path) -> None:
    _run("failing_probe.py", str(tmp_path), processes=2)
    assert "Another process of this training ended early" in (tmp_path / "told.txt").read_text()
