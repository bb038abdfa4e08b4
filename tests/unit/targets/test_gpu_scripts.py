"""The tests for a GPU do what they say: here they run on the simulated card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sim_card
from sim_trt import write_plan

GPU = Path(__file__).parents[2] / "gpu"
DECODE = Path(__file__).parents[1] / "decode"


# One process compiles the simulated driver for all of them.
pytestmark = pytest.mark.xdist_group("simulated-card")


@pytest.fixture
def scripts(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """(card, the module of the kernels' test, that of the warp's)."""
    library.sim_reset(0)
    simulated = sim_card.Card(library, None, tmp_path)
    simulated.use(monkeypatch)
    for folder in (GPU, DECODE):
        monkeypatch.syspath_prepend(str(folder))
    import card
    import test_gpu_1_kernels
    import test_gpu_3_warp

    monkeypatch.setattr(card, "fatbin_file", lambda: tmp_path / "kernels.fatbin")
    made = card.Card()
    made.folder, made.trt = tmp_path, simulated.trt
    yield made, test_gpu_1_kernels, test_gpu_3_warp
    made.close()
    assert library.sim_live() == 0
    simulated.forget()


def test_the_kernels_test_compares_people(scripts: Any) -> None:
    card, kernels, _ = scripts
    assert sum(kernels.check(card, seed) for seed in (0, 3, 8)) > 0


def test_the_warp_test_compares_pixels(scripts: Any) -> None:
    card, _, warps = scripts
    warps.check(card, np.random.default_rng(0))
    expected = card.warp([np.full((40, 30, 3), 7, np.uint8)], [np.array([[1.0, 0, 0], [0, 1, 0]])], (30, 40))
    assert (expected == 7).all()


def test_different_people_are_noticed(scripts: Any) -> None:
    card, kernels, _ = scripts
    heads, config, size = kernels.draw(3)
    found = card.decode(heads, config, size)
    other = card.decode(heads, config.model_copy(update={"detection_threshold": 0.5}), size)
    with pytest.raises(AssertionError):
        kernels.assert_equal(found, other, "field 3")


def test_the_benchmark_measures_what_its_tables_show(scripts: Any, tiny_onnx: Path) -> None:
    import benchmark
    from fields import Field
    from reporting import table
    from test_cuda_runtime import LANDSCAPE, info_of

    from hhrnet_deploy.targets.cuda_runner import CudaRunner
    from hhrnet_deploy.targets.cuda_session import Opening

    card, _, _ = scripts
    heads = benchmark.heads_of(Field(people=2, width=32, height=32), 2)
    row = benchmark.decode_row(card, "two people", heads, 1e9, rounds=2)
    assert (row["images"], row["p50_us"], row["p95_us"]) == (2, 500.0, 500.0)
    assert row["people_per_image"] > 0
    assert row["kernels"].keys() == {"aggregate_flip", "peaks", "group", "refine"}
    # Heads once, heat and tags written and read by three kernels: megabytes over 1 GB/s.
    assert row["floor_us"] == pytest.approx(1000 * row["megabytes"], rel=0.05)
    plan = card.folder / "model.plan"
    write_plan(plan, tiny_onnx, [LANDSCAPE])
    with CudaRunner(info_of(tiny_onnx, max_batch=4), Opening(plan, "tensorrt", lambda: card.trt)) as runner:
        row = benchmark.throughput_row(runner, 1, (64, 64), seconds=0.01)
    card.trt.callbacks.clear()
    rounding = 0.06 / row["network_only"] + 0.001  # one decimal of the rate, three of the ratio
    assert row["ratio"] == pytest.approx(row["images_per_second"] / row["network_only"], abs=rounding)
    assert "| 64x64 |" in table([row])
