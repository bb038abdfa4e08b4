from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from naive_ap import ten_figures
from random_crowds import as_naive, draw

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.matching import annotated, match
from hhrnet_deploy.evaluate.metrics import crowd_indices, crowdpose_metrics
from hhrnet_deploy.evaluate.results import official_results
from hhrnet_deploy.skeletons import CROWDPOSE

NAMES = {"AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"}


def _crowding(images: int) -> dict[int, float]:
    values = [0.0, 0.1, 0.19999, 0.2, 0.5, 0.79, 0.8, 0.93, 1.0]
    return {image: values[image % len(values)] for image in range(images)}


def _figures(annotations: list, people: list, crowding: dict[int, float]) -> dict[str, float | None]:
    truth = [annotated(image, items, CROWDPOSE) for image, items in enumerate(annotations)]
    return crowdpose_metrics(match(truth, people, CROWDPOSE.sigmas), crowding)


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_an_independent_computation(seed: int) -> None:
    annotations, people = draw(seed, images=18, joints=14)
    for items in annotations:
        for item in items:
            del item["area"]  # CrowdPose has none
    crowding = _crowding(18)
    images = [as_naive(*pair, area_factor=0.53) for pair in zip(annotations, people, strict=True)]
    figures = _figures(annotations, people, crowding)
    assert set(figures) == NAMES
    expected = ten_figures(images, list(CROWDPOSE.sigmas))
    assert figures == pytest.approx(
        {name: expected[name] for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")}
        | {
            name: ten_figures([images[i] for i in crowding if low <= crowding[i] < high], list(CROWDPOSE.sigmas))["AP"]
            for name, low, high in (("AP_easy", 0, 0.2), ("AP_medium", 0.2, 0.8), ("AP_hard", 0.8, 2))
        },
        abs=1e-9,
    )


def test_a_level_without_images_is_undefined() -> None:
    annotations, people = draw(1, images=6, joints=14)
    figures = _figures(annotations, people, dict.fromkeys(range(6), 0.9))
    assert figures["AP_easy"] is None
    assert figures["AP_medium"] is None
    assert figures["AP_hard"] == pytest.approx(figures["AP"], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_xtcocotools(seed: int, tmp_path: Path) -> None:
    try:
        from xtcocotools import coco, cocoeval
    except (ImportError, ValueError) as error:  # ValueError: its wheels are built for NumPy 1
        pytest.skip(f"needs xtcocotools: pip install --no-binary xtcocotools xtcocotools ({error})")

    annotations, people = draw(seed, images=27, joints=14)
    for items in annotations:
        for item in items:
            del item["area"]
    crowding = _crowding(27)
    expected_file = tmp_path / "crowdpose_test.json"
    expected_file.write_text(
        json.dumps(
            {
                "images": [{"id": image, "crowdIndex": value} for image, value in crowding.items()],
                "categories": [{"id": 1, "name": "person"}],
                "annotations": [item for items in annotations for item in items],
            }
        )
    )
    results = [entry for image, found in enumerate(people) for entry in official_results(image, found)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(expected_file))
        evaluation = cocoeval.COCOeval(
            truth, truth.loadRes(copy.deepcopy(results)), "keypoints_crowd", np.array(CROWDPOSE.sigmas), use_area=False
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = _figures(annotations, people, crowding)
    ordered = [figures[n] for n in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")]
    assert ordered == pytest.approx(evaluation.stats[:6].tolist(), abs=1e-12)
    # xtcocotools rounds these three to four digits.
    levels = [figures[n] for n in ("AP_easy", "AP_medium", "AP_hard")]
    assert levels == pytest.approx(evaluation.stats[6:].tolist(), abs=5.1e-5)


def test_crowd_indices_are_read_by_the_number_in_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "crowdpose_test.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "106848.jpg", "crowdIndex": 0.33}]}))
    assert crowd_indices(path) == {106848: 0.33}
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "106848.jpg"}]}))
    with pytest.raises(InputError, match=r"no crowdIndex, the first is 106848.jpg"):
        crowd_indices(path)
