from __future__ import annotations

import time

import numpy as np
import pytest
from random_crowds import draw

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.accumulate import average_precision
from hhrnet_deploy.evaluate.bootstrap import paired_interval
from hhrnet_deploy.evaluate.matching import Matches, annotated, match
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO


def _matches(seed: int, images: int, *, lose: float = 0.0) -> Matches:
    annotations, people = draw(seed, images, 17)
    rng = np.random.default_rng(1)
    kept = [found.select(rng.random(len(found)) >= lose) for found in people]
    return match([annotated(image, items, COCO) for image, items in enumerate(annotations)], kept, COCO.sigmas)


def test_a_model_against_itself_has_no_drop_in_any_resample() -> None:
    matches = _matches(0, 20)
    interval = paired_interval(matches, matches, resamples=50)
    assert (interval.low, interval.high, interval.resamples) == (0.0, 0.0, 50)


def test_the_interval_holds_the_drop_and_excludes_zero_for_a_clearly_worse_model() -> None:
    before, after = _matches(0, 150), _matches(0, 150, lose=0.4)
    interval = paired_interval(before, after, resamples=300)
    drop = average_precision(before) - average_precision(after)
    assert 0 < interval.low < drop < interval.high


def test_the_interval_is_that_of_evaluating_each_resample_anew() -> None:
    images, resamples, seed = 12, 20, 5
    annotations, people = draw(3, images, 17)
    worse = [found.select(np.arange(len(found)) % 2 == 0) for found in people]

    def ap(drawn: np.ndarray, lists: list[People]) -> float | None:
        truth = [annotated(place, annotations[image], COCO) for place, image in enumerate(drawn)]
        return average_precision(match(truth, [lists[image] for image in drawn], COCO.sigmas))

    generator = np.random.default_rng(seed)
    drops = []
    for _ in range(resamples):
        drawn = generator.integers(images, size=images)
        drops.append(ap(drawn, people) - ap(drawn, worse))
    truth = [annotated(image, items, COCO) for image, items in enumerate(annotations)]
    interval = paired_interval(
        match(truth, people, COCO.sigmas), match(truth, worse, COCO.sigmas), resamples=resamples, seed=seed
    )
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drops, [0.025, 0.975]), abs=1e-9)


def test_five_hundred_images_take_seconds() -> None:
    before, after = _matches(0, 500), _matches(0, 500, lose=0.1)
    started = time.monotonic()
    paired_interval(before, after, resamples=300)
    assert time.monotonic() - started < 15


def test_the_same_seed_gives_the_same_interval() -> None:
    before, after = _matches(0, 20), _matches(0, 20, lose=0.3)
    assert paired_interval(before, after, resamples=40) == paired_interval(before, after, resamples=40)


def test_too_few_images_or_no_annotated_people_have_no_interval() -> None:
    one = _matches(0, 1)
    assert paired_interval(one, one) is None
    empty = match([annotated(image, [], COCO) for image in range(3)], [People.none(17)] * 3, COCO.sigmas)
    assert paired_interval(empty, empty, resamples=5) is None


def test_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        paired_interval(_matches(0, 3), _matches(0, 4))
