"""From an annotated photo to an example and a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from train_world import write_people

from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.train.batches import Batch, RunBatches, collate, normalise, split_batch
from hhrnet_deploy.train.packed import PackedTargets, SparseMaps
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.samples import Example, Ticket, TrainingSet

STILL = {"max_rotation": 0, "min_scale": 1, "max_scale": 1, "max_translation": 0, "flip": 0}


def _set(root: Path, **changes: Any) -> TrainingSet:
    recipe = Recipe.model_validate({"preset": "small_256", "crop": 64, "geometry": STILL, **changes})
    return TrainingSet(((open_dataset(root, "train2017").annotated(), 1),), recipe)


def _example(samples: TrainingSet, number: int = 0, epoch: int = 0) -> Example:
    example = samples[Ticket(epoch, number)]
    assert isinstance(example, Example)
    return example


def _edit(root: Path, change: Any) -> None:
    path = root / "annotations" / "person_keypoints_train2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_shapes_and_dtypes(tmp_path: Path) -> None:
    example = _example(_set(write_people(tmp_path, 1)))
    assert (example.image.shape, example.image.dtype) == ((64, 64, 3), np.uint8)
    assert (example.coarse_heat.shape, example.fine_heat.shape) == ((17, 16, 16), (17, 32, 32))
    assert (example.coarse_mask.shape, example.fine_mask.shape) == ((16, 16), (32, 32))
    assert example.coarse_heat.max() == example.fine_heat.max() == 1


def test_thirty_one_people_all_count(tmp_path: Path) -> None:
    write_people(tmp_path, 1)

    def crowd(document: dict[str, Any]) -> None:
        one = document["annotations"][0]
        document["annotations"] = [
            {**one, "id": number + 1, "keypoints": [value for _ in range(17) for value in (30 + number, 40, 2)]}
            for number in range(31)
        ]

    _edit(tmp_path, crowd)
    example = _example(_set(tmp_path))
    assert example.tag_index.shape == (31, 17)
    assert example.tag_visible.all()


def test_crowds_and_people_without_joints_are_masked(tmp_path: Path) -> None:
    write_people(tmp_path, 1)

    def add(document: dict[str, Any]) -> None:
        empty = {**document["annotations"][0], "id": 99, "num_keypoints": 0, "keypoints": [0] * 51}
        document["annotations"].append({**empty, "segmentation": [[0, 0, 48, 0, 48, 80, 0, 80]]})

    _edit(tmp_path, add)
    example = _example(_set(tmp_path))
    # The photo is 96x80; a centred square of 80 is cut out, so the left half of it is the masked one less 8 pixels.
    assert example.coarse_mask[:, :7].sum() == 0
    assert example.coarse_mask[:, 9:].all()


def test_images_without_annotations_are_dropped(tmp_path: Path) -> None:
    write_people(tmp_path, 3)
    _edit(
        tmp_path,
        lambda document: document.update(annotations=[a for a in document["annotations"] if a["image_id"] != 2]),
    )
    assert len(_set(tmp_path)) == 2


def test_scale_aware_sigmas_reach_the_targets(tmp_path: Path) -> None:
    root = write_people(tmp_path, 1)
    plain = _example(_set(root))
    wide = _example(_set(root, targets={"scale_aware": {"base_size": 32}}))  # 85 px: sigma 5.3
    assert wide.fine_heat.sum() > 2 * plain.fine_heat.sum()


def test_scale_aware_sigmas_of_boxes_missing_huge_and_broken(tmp_path: Path) -> None:
    root, aware = write_people(tmp_path, 1), {"targets": {"scale_aware": {}}}
    given = _example(_set(root, **aware))
    for box, ratio in (([], 1), ([0, 0, 1e6, 1e6], 10)):
        _edit(root, lambda document, box=box: document["annotations"][0].update(bbox=box))
        assert _example(_set(root, **aware)).fine_heat.sum() >= ratio * given.fine_heat.sum() * 0.5
    _edit(root, lambda document: document["annotations"][0].update(bbox=["a", 0, 1, 1]))
    error = _set(root, **aware)[Ticket(0, 0)]
    assert isinstance(error, InputError)
    assert "needs 4 finite numbers as bbox" in str(error)


@pytest.mark.parametrize("flip", [0, 1])
def test_exact_targets_lie_where_the_joint_is_in_the_image(tmp_path: Path, flip: int) -> None:
    samples = _set(write_people(tmp_path, 1), targets={"exact": True, "sigma": 0.7}, geometry={**STILL, "flip": flip})
    dataset, sample = samples.locate(0)
    (x, y, _), *_ = dataset.joints(sample)[0]
    # The photo is 96x80: a centred square of 80 becomes 64 pixels; the nose is the nose in the mirror too.
    x, y = (x - 8) * 64 / 80, y * 64 / 80
    expected = np.array([63 - x if flip else x, y])
    example = _example(samples)
    for heat, stride in ((example.coarse_heat[0], 4), (example.fine_heat[0], 2)):
        rows, columns = np.indices(heat.shape)
        middle = np.array([(heat * columns).sum(), (heat * rows).sum()]) / heat.sum()
        np.testing.assert_allclose((middle + 0.5) * stride, expected, atol=0.05)


def test_a_sample_depends_on_seed_epoch_and_number_only(tmp_path: Path) -> None:
    root = write_people(tmp_path, 2)
    moving = {"geometry": {}, "photometric": {"brightness": 0.2, "noise": 0.5}}
    first, again = (_example(_set(root, **moving), 1, 3) for _ in range(2))
    for mine, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (first.image != _example(_set(root, **moving), 1, 4).image).any()
    assert (first.image != _example(_set(root, **moving, seed=1), 1, 3).image).any()


def test_a_photo_of_another_size_is_an_error_that_travels(tmp_path: Path) -> None:
    root = write_people(tmp_path, 1)
    cv2.imwrite(str(root / "images" / "train2017" / "000000000001.png"), np.zeros((10, 12, 3), np.uint8))
    samples = _set(root)
    result = samples[Ticket(0, 0)]
    assert isinstance(result, InputError)
    assert "12x10 pixels, its annotations are for 96x80" in str(result)
    assert collate([result]) is result


def test_batches_pad_people_and_normalise_like_the_graph(tmp_path: Path) -> None:
    samples = _set(write_people(tmp_path, 4))
    examples: list[Example | InputError] = [_example(samples, number) for number in range(4)]
    batch = collate(examples)
    assert isinstance(batch, Batch)
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.targets.tag_index.shape[1] == max(
        len(example.tag_index) for example in examples if isinstance(example, Example)
    )
    for row, example in enumerate(examples):
        assert isinstance(example, Example)
        assert batch.targets.tag_visible[row].sum() == example.tag_visible.sum()
    pixel = batch.images[0, :, 5, 7].float()
    expected = (pixel / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(batch.images)[0, :, 5, 7], expected)


def test_packed_targets_are_the_same_numbers_on_the_device(tmp_path: Path) -> None:
    samples = _set(write_people(tmp_path, 5), targets={"exact": True}, geometry={})
    examples = [_example(samples, number) for number in range(5)]
    batch = collate([*examples])
    assert isinstance(batch, Batch)
    packed = batch.targets
    targets = packed.to(torch.device("cpu"))
    for name in ("coarse_heat", "fine_heat", "coarse_mask", "fine_mask"):
        expected = np.stack([getattr(example, name) for example in examples])
        assert expected.any()
        found = getattr(targets, name)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), expected)
    assert isinstance(packed, PackedTargets)
    assert len(packed.fine_heat.values) == np.count_nonzero(targets.fine_heat.numpy())


def test_nobody_in_a_batch_packs_too() -> None:
    nobody = np.zeros((17, 8, 8), np.float32)
    packed = SparseMaps.of([nobody, nobody])
    assert packed.dense(torch.device("cpu")).shape == (2, 17, 8, 8)
    assert not packed.dense(torch.device("cpu")).any()


def test_ranks_share_out_each_step_and_skip_to_where_they_were() -> None:
    recipe = Recipe(preset="small_256", global_batch=4, epochs=2, seed=5)
    split = split_batch(4, 1, 2)
    by_rank = [[t for b in RunBatches(10, recipe, split, rank=rank) for t in b] for rank in range(2)]
    assert [len(tickets) for tickets in by_rank] == [8, 8]  # 2 epochs x 2 steps x 2 accumulated x 1
    for epoch in range(2):
        seen = [t.number for tickets in by_rank for t in tickets if t.epoch == epoch]
        assert len(set(seen)) == 8
    alone = [t for b in RunBatches(10, recipe, split_batch(4, 2, 1), rank=0) for t in b]
    together = [ticket for pair in zip(*by_rank, strict=True) for ticket in pair]
    assert alone == together
    later = [t for b in RunBatches(10, recipe, split, rank=0, epoch=1, step=1) for t in b]
    assert later == by_rank[0][6:]


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    recipe = Recipe(preset="small_256", global_batch=8, epochs=1)
    tickets = [t.number for b in RunBatches(3, recipe, split_batch(8, 8, 1), rank=0) for t in b]
    assert sorted(set(tickets)) == [0, 1, 2]
    assert len(tickets) == 8


def test_the_joints_of_crowdpose_are_not_coco(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_dataset(write_people(tmp_path, 1, joints=COCO.joints), "train2017", "crowdpose")
