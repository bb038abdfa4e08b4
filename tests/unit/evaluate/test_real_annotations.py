"""COCO's own annotations as predictions; needs HHRNET_COCO (a COCO folder)."""

from __future__ import annotations

import os

import numpy as np
import pytest
from photo_world import people_of

from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.evaluate.partial import ImageRecord
from hhrnet_deploy.evaluate.tally import Tally
from hhrnet_deploy.people import People


def _as_people(annotations: list) -> People:
    keypoints = [item["keypoints"] for item in annotations if item["num_keypoints"] > 0 and not item["iscrowd"]]
    return people_of(np.array(keypoints).reshape(-1, 17, 3), np.full(len(keypoints), 0.5))


@pytest.mark.skipif("HHRNET_COCO" not in os.environ, reason="HHRNET_COCO does not name a COCO folder")
@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_the_annotations_as_predictions_score_one(split: str) -> None:
    dataset = open_dataset(os.environ["HHRNET_COCO"], split)
    tally = Tally(dataset, with_reference=True)
    for sample in dataset:
        people = _as_people(sample.annotations)
        tally.add(ImageRecord(sample.image_id, 1.0, people, people))
    metrics = tally.metrics(tally.matches(tally.subject))
    assert {name: metrics[name] for name in ("AP", "APM", "APL", "AR")} == pytest.approx(
        dict.fromkeys(("AP", "APM", "APL", "AR"), 1.0), abs=1e-9
    )
    agreement = tally.agreement()
    assert (agreement.ap, agreement.images_with_different_people) == (pytest.approx(1.0), 0)
