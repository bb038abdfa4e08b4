from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from naive_ap import ten_figures
from photo_world import World, people_of
from random_crowds import as_naive, draw

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.accumulate import average_precision, precision_and_recall
from hhrnet_deploy.evaluate.matching import annotated, match
from hhrnet_deploy.evaluate.metrics import COCO_NAMES, coco_metrics
from hhrnet_deploy.evaluate.results import finite, official_results
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO


def _matches(annotations: list, people: list, skeleton=COCO):
    truth = [annotated(image, items, skeleton) for image, items in enumerate(annotations)]
    return match(truth, people, skeleton.sigmas)


def _world_annotations(world: World) -> list:
    return [
        [world.annotation(number, person, index) for index, person in enumerate(people.keypoints)]
        for number, people in enumerate(world.people)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_figures_agree_with_an_independent_computation(seed: int) -> None:
    annotations, people = draw(seed, images=14, joints=17)
    expected = ten_figures([as_naive(*pair) for pair in zip(annotations, people, strict=True)], list(COCO.sigmas))
    assert coco_metrics(_matches(annotations, people)) == pytest.approx(expected, abs=1e-9)


def test_figures_are_those_of_pycocotools_bit_for_bit() -> None:
    annotations, people = draw(11, images=40, joints=17, most=9)
    assert tuple(coco_metrics(_matches(annotations, people)).values()) == _plain_pycocotools(annotations, people)


def _plain_pycocotools(annotations: list, people: list) -> tuple[float, ...]:
    from pycocotools import coco, cocoeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(annotations))],
            "categories": [{"id": 1}],
            "annotations": [item for items in annotations for item in items],
        }
        truth.createIndex()
        results = [entry for image, found in enumerate(people) for entry in official_results(image, found)]
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(evaluation.stats.tolist())


def test_predictions_that_are_the_annotations_score_one() -> None:
    world = World(12, seed=3)
    figures = coco_metrics(_matches(_world_annotations(world), world.people))
    assert figures["AP"] == figures["AR"] == pytest.approx(1.0, abs=1e-12)


def test_an_annotation_with_the_id_zero_counts() -> None:
    world = World(6, seed=3)
    annotations = _world_annotations(world)
    for items in annotations:
        for item in items:
            item["id"] = 0
    assert coco_metrics(_matches(annotations, world.people))["AP"] == pytest.approx(1.0, abs=1e-12)


def test_nobody_found_scores_zero_and_undefined_sizes_stay_undefined() -> None:
    world = World(6, seed=3)
    annotations = _world_annotations(world)
    for items in annotations:
        for item in items:
            item["area"] = 97.0**2
    figures = coco_metrics(_matches(annotations, [People.none(17)] * 6))
    undefined = {"APM", "ARM"}
    assert {name for name, value in figures.items() if value is None} == undefined
    assert all(figures[name] == 0 for name in COCO_NAMES if name not in undefined)


def test_without_annotated_people_every_figure_is_undefined() -> None:
    figures = coco_metrics(_matches([[], []], [People.none(17), World(1, seed=3).people[0]]))
    assert set(figures.values()) == {None}


def test_only_the_twenty_highest_people_of_an_image_count() -> None:
    world = World(1, seed=3)
    annotations = _world_annotations(world)[0][:1]
    right = np.array(annotations[0]["keypoints"]).reshape(1, 17, 3)
    wrong = np.tile(right + np.array([5000, 5000, 0]), (20, 1, 1))
    crowd = np.concatenate([wrong, right])
    last = people_of(crowd, np.linspace(0.9, 0.1, 21))
    first = people_of(crowd, np.linspace(0.1, 0.9, 21))
    assert coco_metrics(_matches([annotations], [last]))["AP"] == 0
    assert coco_metrics(_matches([annotations], [first]))["AP"] == pytest.approx(1.0)


def test_people_with_nan_match_nothing() -> None:
    world = World(8, seed=3)
    broken = [people_of(people.keypoints * np.float32(np.nan), people.scores) for people in world.people]
    cleaned = [finite(people) for people in broken]
    assert sum(count for _, count in cleaned) == sum(len(people) for people in world.people) > 0
    assert coco_metrics(_matches(_world_annotations(world), [people for people, _ in cleaned]))["AP"] == 0


def test_one_broken_joint_leaves_the_person_and_the_other_joints() -> None:
    people = people_of(np.ones((2, 17, 3)), [0.5, np.inf])
    people.keypoints[0, 4, 1] = np.nan
    cleaned, broken = finite(people)
    assert broken == 2
    assert cleaned.scores.tolist() == [0.5, 0]
    assert cleaned.keypoints[0, 4].tolist() == [0, 0, 0]
    assert cleaned.keypoints[0, 5].tolist() == [1, 1, 1]


def test_accumulating_all_images_once_gives_the_figures_of_cocoeval() -> None:
    annotations, people = draw(5, images=30, joints=17)
    matches = _matches(annotations, people)
    figures = coco_metrics(matches)
    for area, names in enumerate((("AP", "AR"), ("APM", "ARM"), ("APL", "ARL"))):
        precision, recall = precision_and_recall(matches, area=area)
        assert (precision.mean(), recall.mean()) == pytest.approx([figures[name] for name in names], abs=1e-12)


def test_a_weighted_accumulation_equals_the_evaluation_of_repeated_images() -> None:
    annotations, people = draw(6, images=12, joints=17)
    counts = np.random.default_rng(0).integers(0, 4, 12)
    repeated = [image for image, count in enumerate(counts) for _ in range(count)]
    expected = coco_metrics(_matches([annotations[i] for i in repeated], [people[i] for i in repeated]))["AP"]
    assert average_precision(_matches(annotations, people), weights=counts) == pytest.approx(expected, abs=1e-12)


def test_annotations_that_oks_cannot_use_are_named() -> None:
    good = World(1, seed=3).annotation(0, np.ones((17, 3)), 5)
    for key, value, expected in (
        ("keypoints", [1.0] * 42, "42 keypoint numbers; 17 joints need 51"),
        ("bbox", [1, 2, 3], "no box"),
        ("area", None, "no area"),
        ("area", float("nan"), "finite numbers as area"),
        ("area", -5.0, "an area below zero: -5"),
        ("keypoints", ["x"] * 51, "finite numbers as keypoints"),
    ):
        with pytest.raises(InputError, match=expected):
            annotated(7, [{**good, key: value}], COCO)


def test_annotations_without_optional_fields_are_completed() -> None:
    good = World(1, seed=3).annotation(0, np.ones((17, 3)), 5)
    del good["iscrowd"], good["num_keypoints"]
    (item,) = annotated(7, [good], COCO).annotations
    assert item["num_keypoints"] == 17
    assert item["iscrowd"] == 0


def test_matching_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _matches(*draw(1, images=3, joints=17))
    assert capsys.readouterr() == ("", "")
