"""``hhrnet bench``: pairs on the same photos, stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_photos import write_coco
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.cli.bench import _labels
from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.pipeline import bench
from hhrnet_deploy.pipeline.bench import STAGES, Contestant, Quantiles, run_bench

CONFIG = InferenceConfig(short_side=64, decode=DecodeConfig(flip=False))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = write_coco(tmp_path_factory.mktemp("bench") / "data", 2) / "images" / "val2017"
    return sorted(folder.iterdir())


def test_two_models_are_timed_on_the_same_photos(tiny_onnx: Path, tiny_checkpoint: Path, photos: list[Path]) -> None:
    done: list[int] = []
    contestants = [Contestant("one", tiny_onnx), Contestant("two", tiny_checkpoint, decoder="reference")]
    report = run_bench(
        contestants, photos, CONFIG, pairs=3, batches=(1, 2), advance=lambda pair, note: done.append(pair)
    )
    assert (report.photos, report.pairs, report.network_sizes) == (2, 3, [(128, 64)])
    assert done[-1] == 3
    one, two = report.rows
    assert [(row.label, row.target, row.decoder) for row in (one, two)] == [
        ("one", "onnxruntime", "native"),
        ("two", "torch", "reference"),
    ]
    assert (one.ratio, one.ratio_network) == (1.0, 1.0)
    for row in (one, two):
        assert set(row.stages) == {*STAGES, "total"}
        assert all(0 < times.p50 <= times.p90 <= times.p99 for times in row.stages.values())
        assert set(row.images_per_second) == {1, 2}
        assert row.peak_memory_mib > 20
    assert two.peak_memory_mib > one.peak_memory_mib, "PyTorch needs more than ONNX Runtime"


def test_ratios_are_medians_over_pairs_in_rotating_order(
    tiny_onnx: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, str]] = []

    def slower_second(runner: Any, decoder: str, photo: Path, config: Any) -> tuple[float, float, float, float]:
        order.append((decoder, photo.name))
        return (0.0, 0.0, 2.0, 0.0) if decoder == "reference" else (0.0, 0.0, 1.0, 0.0)

    monkeypatch.setattr(bench, "_time_stages", slower_second)
    monkeypatch.setattr(bench, "_peak_memory", lambda *given: 0.0)
    contestants = [Contestant("one", tiny_onnx), Contestant("two", tiny_onnx, decoder="reference")]
    report = run_bench(contestants, photos, CONFIG, pairs=4)
    assert [row.ratio for row in report.rows] == [1.0, 2.0]
    assert len(order) == 2 * (4 + 2), "two pairs warm up"
    for first, second in zip(order[::2], order[1::2], strict=True):
        assert first[1] == second[1], "both models of a pair see one photo"
        assert {first[0], second[0]} == {"native", "reference"}
    assert {pair[0] for pair in order[::2]} == {"native", "reference"}, "the order rotates"


def test_quantiles_are_milliseconds() -> None:
    assert Quantiles.of([0.001, 0.002, 0.003]) == Quantiles(p50=2.0, p90=2.8, p99=2.98)


def test_what_cannot_be_compared_is_refused(tiny_onnx: Path, tiny_onnx_fixed: Path, photos: list[Path]) -> None:
    one = Contestant("one", tiny_onnx)
    with pytest.raises(InputError, match="no photo"):
        run_bench([one], [], CONFIG)
    with pytest.raises(InputError, match="one name"):
        run_bench([one, one], photos, CONFIG)
    with pytest.raises(InputError, match="96x64"):
        run_bench([one, Contestant("fixed", tiny_onnx_fixed)], photos, CONFIG)
    with pytest.raises(InputError, match="at most 2 images at once, --batches asks for 4"):
        run_bench([one, Contestant("fixed", tiny_onnx_fixed)], photos, CONFIG, batches=[1, 4])


def test_models_for_other_input_sizes_are_refused_unless_one_is_chosen(
    tiny_onnx: Path, photos: list[Path], tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(str(tiny_onnx))
    for entry in model.metadata_props:
        if entry.key == "short_side":
            entry.value = "128"
    onnx.save(model, str(tmp_path / "large.onnx"))
    words = ["bench", str(tiny_onnx), str(tmp_path / "large.onnx"), "--images", str(photos[0].parent), "--pairs", "1"]
    done = CliRunner().invoke(app, [*words, "--no-flip"])
    assert isinstance(done.exception, InputError)
    assert "short side of 128" in str(done.exception)
    assert CliRunner().invoke(app, [*words, "--no-flip", "--size", "64"]).exit_code == 0


def test_the_command_prints_a_document_and_a_plot(tiny_checkpoint: Path, photos: list[Path], tmp_path: Path) -> None:
    plot = tmp_path / "bench"
    words = ["bench", str(tiny_checkpoint), "--against", "official-style,onnxruntime", "--checkpoint"]
    words += [str(tiny_checkpoint), "--images", str(photos[0].parent), "--pairs", "2", "--no-flip"]
    done = CliRunner().invoke(app, [*words, "--plot", str(plot), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [(row["label"], row["decoder"]) for row in rows] == [
        ("tiny.safetensors", "native"),
        ("official-style", "reference"),
        ("onnxruntime fp32", "native"),
    ]
    assert rows[0]["joules_per_image"] is None
    picture = cv2.imread(str(plot))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_a_table_names_every_model(tiny_onnx: Path, photos: list[Path]) -> None:
    words = [
        "bench",
        str(tiny_onnx),
        "--images",
        str(photos[0].parent),
        "--pairs",
        "1",
        "--no-flip",
        "--batches",
        "1,2",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for words_shown in ("heads.onnx", "network", "decode", "img/s", "1.000", "peak MiB"):
        assert words_shown in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--against", "abacus"], "abacus"), (["--batches", "0"], "--batches"), (["--batches", "1,x"], "--batches")],
)
def test_wrong_words_are_named(tiny_onnx: Path, photos: list[Path], words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", str(tiny_onnx), "--images", str(photos[0].parent), *words])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_models_of_one_name_are_told_apart_by_their_paths() -> None:
    assert _labels(["a/engine", "b/engine", "c/other"]) == ["a/engine", "b/engine", "other"]
