"""Measurements of training, written to docs/figures.json: ``pytest -m figures tests/unit/train``."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hhrnet_deploy.files import write_text

FIGURES = Path(__file__).parents[3] / "docs" / "figures.json"

STEP = """
import json, resource, sys, time
import numpy as np, torch
from hhrnet_deploy.model.checkpoint import load_model
from hhrnet_deploy.train.arithmetic import autocast_type
from hhrnet_deploy.train.batches import Batch, normalise
from hhrnet_deploy.train.losses import Targets
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.state import Learner
from hhrnet_deploy.train.step import Stepper

precision, channels_last = sys.argv[1], sys.argv[2] == "1"
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
recipe = Recipe(preset="w32_512", precision=precision, channels_last=channels_last)
torch.manual_seed(0)
network = load_model("w32_512").train().to(device)
if channels_last:
    network.to(memory_format=torch.channels_last)
optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
stepper = Stepper(network, Learner(network, optimiser, scaler, None), recipe, device)
images = torch.randint(0, 256, (2, 512, 512, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
visible = torch.ones((2, 5, 17), dtype=torch.bool)
index = torch.randint(0, 17 * 128 * 128, (2, 5, 17))
masks = torch.ones((2, 128, 128)), torch.ones((2, 256, 256))
heats = torch.rand(2, 17, 128, 128), torch.rand(2, 17, 256, 256)
batch = Batch(["a", "b"], images, Targets(*heats, *masks, index, visible))

def timed(act):
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu

def plain():
    inputs = normalise(batch.images.to(device))
    inputs = inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    kind = autocast_type(precision, device)
    with torch.autocast(device.type, kind, enabled=kind is not None):
        coarse, fine = network(inputs)
    network.zero_grad()
    (coarse.float().square().mean() + fine.float().square().mean()).backward()

stepper.step([batch], 1e-3)
steps = [timed(lambda: stepper.step([batch], 1e-3)) for _ in range(3)]
plain()
plains = [timed(plain) for _ in range(3)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if device.type == "cuda":
    peak = torch.cuda.max_memory_allocated()
best = [min(column) for column in zip(*steps)] + [min(column) for column in zip(*plains)]
names = "step_s", "step_cpu_s", "plain_s", "plain_cpu_s"
print(json.dumps({**dict(zip(names, best)), "peak_bytes": peak, "device": str(device)}))
"""


def record(section: str, figures: dict[str, Any]) -> None:
    """Put figures into a section of docs/figures.json, also while others do the same."""
    FIGURES.parent.mkdir(exist_ok=True)
    with (FIGURES.parent / ".figures.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        document.setdefault(section, {}).update(figures)
        write_text(FIGURES, json.dumps(document, indent=2, sort_keys=True) + "\n")
    (FIGURES.parent / ".figures.lock").unlink(missing_ok=True)


@pytest.mark.figures
@pytest.mark.parametrize(("precision", "channels_last"), [("fp32", False), ("bf16", True)])
def test_one_step_of_w32_512_at_batch_two(precision: str, channels_last: bool) -> None:
    command = [sys.executable, "-c", STEP, precision, str(int(channels_last))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    found["overhead"] = round(found["step_cpu_s"] / found["plain_cpu_s"] - 1, 3)
    found["load_average"] = round(os.getloadavg()[0], 1)
    found["measured"] = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    found["torch_threads"] = torch.get_num_threads()
    record("train", {f"w32_512_step_batch2_{precision}{'_channels_last' if channels_last else ''}": found})
    assert found["peak_bytes"] < 16 << 30
