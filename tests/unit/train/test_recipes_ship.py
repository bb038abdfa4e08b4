"""Every shipped recipe loads, and wrong ones say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hhrnet_deploy import resources
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.model.presets import find_preset
from hhrnet_deploy.train.batches import split_batch
from hhrnet_deploy.train.recipe import load_recipe
from hhrnet_deploy.train.schedule import learning_rate
from hhrnet_deploy.train.sources import expanded

OFFICIAL = {
    "w32_512": (512, 48, 12),
    "w32_640": (640, 48, 12),
    "w48_640": (640, 40, 10),
    "crowdpose_w32_512": (512, 48, 12),
    "crowdpose_w32_512_coco": (512, 48, 12),
    "crowdpose_w32_512_syncbn": (512, 48, 12),
    "crowdpose_w32_640": (640, 48, 12),
    "crowdpose_w48_640": (640, 40, 10),
}


@pytest.mark.parametrize("name", resources.names(resources.RECIPE))
def test_every_shipped_recipe_loads_and_names_a_preset(name: str) -> None:
    recipe = load_recipe(name)
    preset = find_preset(recipe.preset)
    assert recipe.crop <= 2 * preset.short_side
    split_batch(recipe.global_batch, recipe.images_per_device, 4)


def test_no_official_row_is_missing() -> None:
    assert set(OFFICIAL) | {"small_256", "small_256_gpu", "quick"} == set(resources.names(resources.RECIPE))


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_rows_have_the_official_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.crop, recipe.global_batch, recipe.images_per_device) == OFFICIAL[name]
    assert recipe.preset == name.removesuffix("_coco").removesuffix("_syncbn")
    assert recipe.epochs == 300
    assert recipe.sync_bn == name.endswith("_syncbn")
    assert (recipe.init_layers == "backbone") == name.endswith("_coco")
    geometry = recipe.geometry
    assert (geometry.max_rotation, geometry.min_scale, geometry.max_scale) == (30, 0.75, 1.5)
    assert (geometry.max_translation, geometry.flip, geometry.focus) == (40, 0.5, 0)
    assert not any(getattr(recipe.photometric, key) for key in ("brightness", "contrast", "saturation", "hue"))
    assert not any(getattr(recipe.photometric, key) for key in ("grayscale", "blur", "noise", "cutout"))
    loss = recipe.loss
    assert (loss.coarse_heat, loss.fine_heat, loss.push, loss.pull, loss.foreground) == (1, 1, 1e-3, 1e-3, 0)
    rates = [learning_rate(recipe.optimiser, step=0, epoch=epoch, progress=0) for epoch in (0, 199, 200, 259, 260)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_settings_change_values_in_place() -> None:
    recipe = load_recipe("w32_512", ("optimiser.lr=5e-4", "geometry.flip=0", "targets.scale_aware.round_up=true"))
    assert recipe.optimiser.lr == 5e-4
    assert recipe.optimiser.milestones == (200, 260)
    assert recipe.geometry.flip == 0
    assert recipe.targets.scale_aware is not None
    assert recipe.targets.scale_aware.round_up


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("crops=3", "crops: Extra inputs are not permitted"),
        ("crop=100", "crop: Input should be a multiple of 32"),
        ("optimiser.milestones=[5, 3]", "milestones have to rise"),
        ("budget_minutes=3", "budget_minutes needs optimiser.schedule: cosine"),
        ("crop.x=3", "'crop' holds a value"),
        ("crop", "wants key=value"),
        ("sources=[{path: a, manifest: b}]", "exactly one of"),
    ],
)
def test_wrong_settings_are_explained(setting: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_recipe("w32_512", (setting,))


def test_a_recipe_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(InputError, match="has to be a mapping"):
        load_recipe(path)
    path.write_text("a: [1\n")
    with pytest.raises(InputError, match="is not YAML"):
        load_recipe(path)


def test_paths_name_the_variable_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHRNET_TEST_DATA", "/data")
    assert expanded("$HHRNET_TEST_DATA/coco") == "/data/coco"
    monkeypatch.delenv("HHRNET_TEST_DATA")
    with pytest.raises(InputError, match="HHRNET_TEST_DATA, which is not set"):
        expanded("${HHRNET_TEST_DATA}/coco")


def test_a_global_batch_is_shared_evenly_or_refused() -> None:
    split = split_batch(48, 12, 1)
    assert (split.micro_batch, split.accumulation) == (12, 4)
    assert (split_batch(48, 12, 4).micro_batch, split_batch(48, 12, 4).accumulation) == (12, 1)
    assert (split_batch(40, 12, 2).micro_batch, split_batch(40, 12, 2).accumulation) == (10, 2)
    with pytest.raises(InputError, match="48 images cannot be shared evenly by 5 processes"):
        split_batch(48, 12, 5)


def test_cosine_warms_up_and_ends_at_the_final_rate() -> None:
    options = load_recipe("quick").optimiser
    assert learning_rate(options, step=0, epoch=0, progress=0) == pytest.approx(options.lr / options.warmup_steps)
    assert learning_rate(options, step=10_000, epoch=5, progress=0.5) == pytest.approx(
        (options.lr + options.final_lr) / 2
    )
    assert learning_rate(options, step=10_000, epoch=9, progress=1) == pytest.approx(options.final_lr)
