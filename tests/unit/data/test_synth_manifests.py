"""The committed sets: drawn once, verified, and refused when they are not what the manifest says."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from hhrnet_deploy.data import synth_cache
from hhrnet_deploy.data.manifest import ImagesManifest, SyntheticManifest, manifest_text, read_manifest
from hhrnet_deploy.data.synth import GENERATOR, GENERATOR_VERSION, ensure_synthetic, synthesize
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.resources import CALIBRATION, find, names


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HHRNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _manifest(tmp_path: Path, **change: Any) -> Path:
    made = synthesize(tmp_path / "reference", 2, 40)
    fields: dict[str, Any] = {
        "kind": "synthetic",
        "name": "tiny",
        "generator": GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "seed": 40,
        "images": 2,
        "split": "val2017",
        "annotations_sha256": made.annotations_sha256,
        "pixels_sha256": made.pixels_sha256,
    }
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({**fields, **change}))
    return path


def test_every_shipped_manifest_is_valid_and_of_this_generator() -> None:
    shipped = [read_manifest(find(CALIBRATION, name)) for name in names(CALIBRATION)]
    synthetic = [manifest for manifest in shipped if isinstance(manifest, SyntheticManifest)]
    assert {"synthetic_eval_500", "synthetic_calibration_128", "synthetic_demo_64"} <= {m.name for m in synthetic}
    assert all(manifest.name == name for manifest, name in zip(shipped, names(CALIBRATION), strict=True))
    assert all(manifest.generator_version == GENERATOR_VERSION for manifest in synthetic)
    assert len({manifest.seed for manifest in synthetic}) == len(synthetic)
    assert not any(1000 <= manifest.seed <= 9999 for manifest in synthetic)  # those are for training


def test_the_demo_set_is_the_committed_one(cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pixels may differ with the OpenCV build; labels may not
        folder = ensure_synthetic("synthetic_demo_64", workers=2)
    assert folder.parent == cache
    assert len(list((folder / "images" / "val2017").iterdir())) == 64


@pytest.mark.slow
def test_the_evaluation_set_is_the_committed_one(cache: Path) -> None:
    folder = ensure_synthetic("synthetic_eval_500", workers=2)
    assert len(list((folder / "images" / "val2017").iterdir())) == 500


def test_a_set_is_drawn_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _manifest(tmp_path)
    seen: list[int] = []
    first = ensure_synthetic(manifest, lambda done, _total: seen.append(done), workers=1)
    assert seen == [1, 2]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(synth_cache, "synthesize", never)
    assert ensure_synthetic(manifest) == first


def test_a_damaged_set_is_drawn_again(cache: Path, tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    folder = ensure_synthetic(manifest, workers=1)
    image = next((folder / "images" / "val2017").iterdir())
    content = image.read_bytes()
    image.unlink()
    assert ensure_synthetic(manifest, workers=1) == folder
    assert image.read_bytes() == content


def test_other_labels_are_refused_and_other_pixels_warned_about(cache: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="pixels of tiny differ"):
        ensure_synthetic(_manifest(tmp_path, pixels_sha256="0" * 64), workers=1)
    other = _manifest(tmp_path, annotations_sha256="0" * 64)
    for _ in range(2):
        with pytest.raises(InputError, match="not the committed one"):
            ensure_synthetic(other, workers=1)


def test_another_generator_version_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"this is {GENERATOR} {GENERATOR_VERSION}"):
        ensure_synthetic(_manifest(tmp_path, generator_version=GENERATOR_VERSION + 1))


def test_an_unwritable_cache_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _manifest(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HHRNET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="HHRNET_CACHE"):
        ensure_synthetic(manifest)


def test_a_manifest_of_photos_is_no_synthetic_set(cache: Path, tmp_path: Path) -> None:
    entry = {"id": 7, "file_name": "7.jpg", "sha256": "a" * 64}
    photos = ImagesManifest.model_validate(
        {"kind": "images", "name": "photos", "source": "coco", "split": "val2017", "chosen": "all", "images": [entry]}
    )
    path = tmp_path / "photos.json"
    path.write_text(manifest_text(photos))
    assert read_manifest(path) == photos
    with pytest.raises(InputError, match="names real images"):
        ensure_synthetic(path)


@pytest.mark.parametrize("change", [{"extra": 1}, {"seed": -1}, {"images": 0}, {"split": "../x"}, {"kind": "other"}])
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        read_manifest(_manifest(tmp_path, **change))
