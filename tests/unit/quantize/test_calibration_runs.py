"""Calibration: the sets, bounded and resumable runs, files that know what they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.manifest import manifest_text, read_manifest
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.calibration_set import open_calibration
from hhrnet_deploy.quantize.collect import calibrate, passes
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, read_topology


@pytest.fixture(scope="module")
def tiny(tiny_onnx: Path) -> Topology:
    return read_topology(onnx.load(str(tiny_onnx)))


def measure(topology: Topology, photos: Path, path: Path, **options: Any) -> Statistics:
    options = {"float_input": False, "threads": 1, **options}
    return calibrate(topology, open_calibration(str(photos)), 64, path=path, **options).statistics


def same(left: Statistics, right: Statistics, *, tolerance: float = 0.0) -> None:
    assert left.tensors.keys() == right.tensors.keys()
    for key, item in left.tensors.items():
        other = right.tensors[key]
        assert item.low == pytest.approx(other.low, rel=tolerance, abs=tolerance)
        assert item.high == pytest.approx(other.high, rel=tolerance, abs=tolerance)
        if not tolerance:
            np.testing.assert_array_equal(item.histogram.counts, other.histogram.counts)


def test_extremes_are_those_of_the_network_at_each_photos_own_size(
    tiny: Topology, photos: Path, tmp_path: Path
) -> None:
    import onnxruntime

    statistics = measure(tiny, photos, tmp_path / "r.npz")
    session = onnxruntime.InferenceSession(tiny.model.SerializeToString())
    low, high, shapes = 0.0, 0.0, set()
    for path in sorted(photos.iterdir()):
        pixels = read_image(path)
        warped = Warp.plan(pixels.shape[1], pixels.shape[0], 64).apply(pixels)
        shapes.add(warped.shape)
        coarse = session.run(["coarse"], {"image": warped[None]})[0]
        low, high = min(low, coarse.min()), max(high, coarse.max())
    assert len(shapes) > 2
    found = statistics.tensors["coarse"]
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-4)
    assert statistics.tensors["input"].low < 0 < statistics.tensors["input"].high
    assert all(item.histogram.counts.sum() > 0 for item in statistics.tensors.values())


@pytest.mark.parametrize(("killed_at", "counts"), [(3, (2, 0)), (8, (5, 2))])
def test_a_killed_run_goes_on_and_ends_with_the_same_figures(
    tiny: Topology,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
    counts: tuple[int, int],
) -> None:
    whole = measure(tiny, photos, tmp_path / "whole.npz")
    monkeypatch.setattr("hhrnet_deploy.quantize.collect._SAVE_SECONDS", 0.0)

    def kill(done: int, note: str) -> None:
        del note
        if done == killed_at:
            raise KeyboardInterrupt

    path = tmp_path / "killed.npz"
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, photos, path, progress=kill)
    header = Statistics.load(path).header
    assert (header.prepared, header.done) == counts
    seen: list[int] = []
    options: Any = {"float_input": False, "threads": 1, "path": path}
    chosen = open_calibration(str(photos))
    found = calibrate(tiny, chosen, 64, progress=lambda done, note: seen.append(done), **options)
    assert (found.resumed_from, seen) == (counts[1], list(range(killed_at, passes(chosen) + 1)))
    same(found.statistics, whole)
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_finished_figures_are_taken_as_they_are(tiny: Topology, photos: Path, tmp_path: Path) -> None:
    measure(tiny, photos, tmp_path / "r.npz")
    again: list[int] = []
    measure(tiny, photos, tmp_path / "r.npz", progress=lambda done, note: again.append(done))
    assert again == []


@pytest.mark.parametrize("fixture", ["tiny_onnx_flip", "tiny_onnx_simplified_float"])
def test_every_export_of_a_network_gives_the_same_figures(
    request: pytest.FixtureRequest, tiny: Topology, photos: Path, tmp_path: Path, fixture: str
) -> None:
    other = read_topology(onnx.load(str(request.getfixturevalue(fixture))))
    assert other.digest() == tiny.digest()
    expected = measure(tiny, photos, tmp_path / "a.npz")
    got = measure(other, photos, tmp_path / "b.npz", float_input="float" in fixture)
    same(got, expected, tolerance=1e-4)


@pytest.fixture(scope="session")
def tiny_onnx_simplified_float(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hhrnet_deploy.export.exporting import export_onnx

    path = tmp_path_factory.mktemp("float") / "heads.onnx"
    export_onnx(tiny_model, path, size=(64, 96), batch=2, flip=True, input="float")
    return path


def test_stale_files_are_refused_with_the_reason(tiny: Topology, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    measure(tiny, photos, path)
    changed = onnx.ModelProto()
    changed.CopyFrom(tiny.model)
    weight = next(t for t in changed.graph.initializer if t.name == tiny.convolutions()[3].input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    with pytest.raises(InputError, match="another network"):
        measure(read_topology(changed), photos, path)
    with pytest.raises(InputError, match=r"another calibration set \(.*5 images\)"):
        calibrate(tiny, open_calibration(f"{photos}:2"), 64, float_input=False, path=path)
    with pytest.raises(InputError, match="short side of 64 instead of 96"):
        calibrate(tiny, open_calibration(str(photos)), 96, float_input=False, path=path)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_damaged_files_are_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "r.npz"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(InputError, match="calibration file"):
        Statistics.load(path)


def test_long_images_are_cut_into_equal_pieces_of_bounded_size() -> None:
    from hhrnet_deploy.quantize import collect

    pixels = np.arange(512 * 4096, dtype=np.int64).reshape(1, 512, 4096, 1).astype(np.uint8).repeat(3, 3)
    pieces = collect._pieces(pixels)
    assert len(pieces) > 1
    assert all(p.shape[1] * p.shape[2] <= collect._MOST_PIXELS and p.shape[2] % 32 == 0 for p in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces, 2), pixels)
    upright = collect._pieces(pixels.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(np.concatenate(upright, 1), pixels.transpose(0, 2, 1, 3))
    assert len(collect._pieces(pixels[:, :, :704])) == 1


def test_a_manifest_finds_the_same_images_and_notices_others(photos: Path, tmp_path: Path) -> None:
    chosen = open_calibration(f"{photos}:3")
    assert [image.path.name for image in chosen.images] == ["0.png", "1.png", "3.png"]
    manifest = tmp_path / "three.json"
    manifest.write_text(manifest_text(chosen.manifest))
    assert read_manifest(manifest) == chosen.manifest
    again = open_calibration(f"{manifest}:{photos}")
    assert (again.digest, len(again)) == (chosen.digest, 3)
    assert all((a == b).all() for a, b in zip(again.warped(64), chosen.warped(64), strict=True))
    with pytest.raises(InputError, match="has to be said where"):
        open_calibration(str(manifest))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("0.png", "1.png", "3.png"):
        (other / name).write_bytes((photos / "2.png").read_bytes())
    with pytest.raises(InputError, match="not the image that the calibration manifest names"):
        list(open_calibration(f"{manifest}:{other}").warped(64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_set", "No calibration manifest 'no_such_set'"),
        ("coco:", "Cannot read the calibration set"),
        ("coco:/nowhere", "does not exist"),
        ("{photos}:9", "holds 5 images, 9 were asked for"),
        ("{photos}:none", "number of images after the last colon"),
        ("{photos}:0", "number of images after the last colon"),
        ("synthetic_calibration_128:16", "'16' after it means nothing"),
    ],
)
def test_sets_that_cannot_be_read_say_why(photos: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_calibration(text.format(photos=photos))


def test_shipped_manifests_load() -> None:
    from hhrnet_deploy.data.manifest import SyntheticManifest
    from hhrnet_deploy.quantize.calibration_set import DEFAULT_SET
    from hhrnet_deploy.resources import CALIBRATION, find

    manifest = read_manifest(find(CALIBRATION, DEFAULT_SET))
    assert isinstance(manifest, SyntheticManifest)
    assert manifest.images == 128


def test_a_damaged_file_in_the_cache_is_measured_anew(
    tiny: Topology, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cached.npz"
    path.write_bytes(b"PK of another version")
    monkeypatch.setattr("hhrnet_deploy.quantize.collect.cached_path", lambda header: path)
    found = calibrate(tiny, open_calibration(f"{photos}:1"), 64, float_input=False, threads=1)
    assert found.path == path
    assert Statistics.load(path).header.complete


def test_figures_go_to_a_file_of_any_name(tiny: Topology, photos: Path, tmp_path: Path) -> None:
    measure(tiny, photos, tmp_path / "ranges")
    assert [path.name for path in tmp_path.iterdir()] == ["ranges"]
    assert Statistics.load(tmp_path / "ranges").header.complete


def test_a_folder_is_no_calibration_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder") as caught:
        Statistics.load(tmp_path)
    assert "ranges.npz" in str(caught.value.hint)


def test_a_set_without_a_name_or_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no name"):
        open_calibration("")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text("{}")
    with pytest.raises(InputError, match="no annotations for the split 'train2017'") as caught:
        open_calibration(f"coco:{tmp_path}:train2017:2")
    assert "--split" not in str(caught.value)


def test_an_array_is_no_calibration_file(tmp_path: Path) -> None:
    np.save(tmp_path / "ranges.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"no calibration file: it is no \.npz archive") as caught:
        Statistics.load(tmp_path / "ranges.npy")
    assert "pickle" not in caught.value.fact


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("names", np.array("{}")),
        ("names", np.array("[1]")),
        ("channels", np.array("[1, 2]")),
        ("channels", np.array('{"input": "x"}')),
        ("patches", np.array("[[27, 1]]")),
        ("patches", np.array('{"input": [27]}')),
        ("low", np.array(["input"], object)),
        ("counts", np.zeros(3)),
    ],
)
def test_parts_of_another_kind_are_refused(
    tiny: Topology, photos: Path, tmp_path: Path, part: str, value: npt.NDArray[Any]
) -> None:
    measure(tiny, photos, tmp_path / "ranges")
    with np.load(tmp_path / "ranges") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "odd.npz", **(arrays | {part: value}))
    with pytest.raises(InputError, match="no calibration file of this version"):
        Statistics.load(tmp_path / "odd.npz")


def test_a_cache_that_cannot_be_written_costs_only_the_next_time(
    tiny: Topology, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("hhrnet_deploy.quantize.collect.cached_path", lambda header: tmp_path / "file" / "ranges.npz")
    found = calibrate(tiny, open_calibration(f"{photos}:1"), 64, float_input=False, threads=1)
    assert found.statistics.header.complete
    assert "is not kept for the next time" in caplog.text


def test_a_folder_with_a_colon_in_its_name_is_a_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos:2024").symlink_to(photos)
    assert len(open_calibration(str(tmp_path / "photos:2024"))) == 5
    assert len(open_calibration(f"{tmp_path / 'photos:2024'}:2")) == 2


def test_a_photo_too_long_for_the_network_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((16, 4000, 3), np.uint8))
    with pytest.raises(InputError, match=r"long\.png: .*4000x16") as caught:
        list(open_calibration(str(tmp_path)).warped(64))
    assert "--max-long-side" not in str(caught.value)


def test_a_file_of_another_version_says_which(tiny: Topology, photos: Path, tmp_path: Path) -> None:
    measure(tiny, photos, tmp_path / "ranges")
    with np.load(tmp_path / "ranges") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["header"] = np.array(str(arrays["header"]).replace('"schema_version":4', '"schema_version":3'))
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(InputError, match=r"of this version \(schema_version: Input should be 4, got 3\)") as caught:
        Statistics.load(tmp_path / "old.npz")
    assert "\n" not in caught.value.fact
