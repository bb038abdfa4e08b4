"""The benchmark of training that ``make gpu-test`` runs on a card, here on the CPU and tiny."""

from __future__ import annotations

from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "gpu"
WORDS = ["--preset", "small_256", "--crop", "64", "--batch", "2", "--images", "5", "--records", "1", "--workers", "0"]


def test_the_loop_is_timed_beside_the_network_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHRNET_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(GPU))
    import benchmark_training
    from reporting import machine, table

    from hhrnet_deploy.train.distributed import joined

    with joined() as world:
        row = benchmark_training.row(benchmark_training.parsed(WORDS), "bf16", world)
    assert (row["preset"], row["crop"], row["batch"], row["precision"]) == ("small_256", 64, 2, "bf16")
    loop, plain = row["loop_images_per_second"], row["plain_images_per_second"]
    assert min(loop, plain, row["loader_images_per_second"]) > 0
    assert row["overhead"] == pytest.approx(plain / loop - 1, abs=0.1)
    assert table([row]).splitlines()[-1].startswith("| small_256 | 64 | 2 | bf16 |")
    assert machine()["python"]
