from __future__ import annotations

import gc
import json
import math
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photo_world import KnowingRunner, World

import hhrnet_deploy.evaluate
from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.evaluate.identity import Candidate
from hhrnet_deploy.evaluate.report import check_gate
from hhrnet_deploy.evaluate.run import EvaluationOptions, evaluate
from hhrnet_deploy.people import People

NO_RESAMPLES = EvaluationOptions(resamples=5)


@pytest.fixture(scope="module")
def world() -> World:
    return World(24, seed=2)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("world"))


def lose_every_third(number: int, people: People) -> People:
    return people.select(np.arange(len(people)) % 3 != 2) if number % 2 else people


class Interrupted(KnowingRunner):
    """Ctrl-C after some images."""

    def __init__(self, world: World, after: int) -> None:
        super().__init__(world)
        self.after = after

    def people(self, images: Any, *args: Any, **kwargs: Any) -> list[People]:
        if len(self.batches) >= self.after:
            raise KeyboardInterrupt
        return super().people(images, *args, **kwargs)


def test_a_model_that_finds_exactly_the_annotations_has_ap_one(world: World, folder: Path) -> None:
    report = evaluate(KnowingRunner(world), folder)
    assert report.subject.metrics["AP"] == pytest.approx(1.0, abs=1e-9)
    assert report.images == 24
    assert report.subject.people == sum(len(people) for people in world.people)
    assert report.reference is report.agreement is report.drop is None


def test_batches_of_mixed_sizes_give_the_same_figures(world: World, folder: Path) -> None:
    def figures(batch: int) -> dict[str, float | None]:
        runner = KnowingRunner(world, change=lose_every_third)
        return evaluate(runner, folder, options=EvaluationOptions(batch=batch)).subject.metrics

    assert figures(1) == figures(5)


def test_a_reference_brings_drop_interval_and_agreement(world: World, folder: Path) -> None:
    subject = KnowingRunner(world, change=lose_every_third, name="engine")
    report = evaluate(subject, folder, reference=KnowingRunner(world, kind="checkpoint"), options=NO_RESAMPLES)
    assert report.drop["AP"] == pytest.approx(1 - report.subject.metrics["AP"])
    assert report.drop["AP"] > 0.02
    assert report.interval.low <= report.drop["AP"] + 0.1
    different = sum(1 for number, people in enumerate(world.people) if number % 2 and len(people) > 2)
    assert report.agreement.images_with_different_people == different > 0
    assert report.agreement.ap < 0.99


def test_a_model_agrees_with_itself(world: World, folder: Path) -> None:
    report = evaluate(KnowingRunner(world), folder, reference=KnowingRunner(world), options=NO_RESAMPLES)
    assert report.agreement.ap == pytest.approx(1.0)
    assert report.agreement.images_with_different_people == 0
    assert report.drop["AP"] == report.interval.low == report.interval.high == 0


def test_one_pixel_is_one_of_the_network_input(tmp_path: Path) -> None:
    world = World(1, seed=3)
    world.sizes = [(256, 256)]  # 256 px become 64: a pixel of the input is 4 of the photo
    folder = world.write(tmp_path)

    def moved(by: float) -> Callable[[int, People], People]:
        return lambda number, people: people.with_keypoints(people.keypoints + np.float32([by, 0, 0]))

    def different(by: float) -> int:
        subject = KnowingRunner(world, change=moved(by))
        report = evaluate(subject, folder, reference=KnowingRunner(world), options=NO_RESAMPLES)
        return report.agreement.images_with_different_people

    assert len(world.people[0]) > 0
    assert (different(0.9), different(1.1)) == (0, 1)


def test_the_json_document_has_exactly_the_agreed_keys(world: World, folder: Path) -> None:
    subject = KnowingRunner(world, name="int8")
    alone = evaluate(subject, folder).as_document()
    assert set(alone) == {"engine", "reference", "drop", "agreement", "images"}
    assert (alone["reference"], alone["drop"], alone["agreement"], alone["images"]) == (None, None, None, 24)
    assert set(alone["engine"]) == {"name", "metrics"}
    names = {"AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"}
    assert set(alone["engine"]["metrics"]) == names

    both = evaluate(
        KnowingRunner(world, kind="checkpoint"), folder, reference=KnowingRunner(world), options=NO_RESAMPLES
    ).as_document()
    assert set(both) == {"checkpoint", "reference", "drop", "agreement", "images"}
    assert set(both["reference"]) == {"name", "metrics"}
    assert set(both["drop"]) == names | {"interval"}
    assert set(both["agreement"]) == {"AP", "images_with_different_people"}
    json.dumps(both, allow_nan=False)


def test_the_limit_evaluates_the_first_images_only(world: World, folder: Path) -> None:
    runner = KnowingRunner(world)
    report = evaluate(runner, folder, options=EvaluationOptions(limit=5))
    assert report.images == 5
    assert sorted(number for batch in runner.batches for number in batch) == [0, 1, 2, 3, 4]
    # Annotated people of the other images do not count as missed.
    assert report.subject.metrics["AR"] == pytest.approx(1.0)


def test_an_interrupted_run_continues_and_ends_with_the_same_report(world: World, folder: Path, tmp_path: Path) -> None:
    options = EvaluationOptions(partial=tmp_path / "p.jsonl", output=tmp_path / "results.json", resamples=5)
    whole = evaluate(Candidate(KnowingRunner(world), "w"), folder, options=options)
    expected = options.output.read_bytes()
    options.output.unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(Candidate(Interrupted(world, after=9), "w"), folder, options=options)
    assert options.partial.is_file()
    assert not options.output.exists()

    runner = KnowingRunner(world)
    progress: list[int] = []
    resumed = evaluate(
        Candidate(runner, "w"),
        folder,
        options=replace(options, resume=True),
        advance=lambda done, note: progress.append(done),
    )
    assert progress[0] >= 7
    assert progress[-1] == 24
    assert len(runner.batches) == 24 - progress[0]
    assert resumed == whole
    assert options.output.read_bytes() == expected
    assert not options.partial.exists()


def test_results_of_other_weights_or_settings_are_not_continued(world: World, folder: Path, tmp_path: Path) -> None:
    options = EvaluationOptions(partial=tmp_path / "p.jsonl")
    with pytest.raises(KeyboardInterrupt):
        evaluate(Candidate(Interrupted(world, after=9), "w"), folder, options=options)
    resume = replace(options, resume=True)
    with pytest.raises(InputError, match="different run"):
        evaluate(Candidate(KnowingRunner(world), "other weights"), folder, options=resume)
    with pytest.raises(InputError, match="decoder"):
        evaluate(Candidate(KnowingRunner(world), "w"), folder, options=replace(resume, decoder="reference"))
    with pytest.raises(InputError, match="images"):
        evaluate(Candidate(KnowingRunner(world), "w"), folder, options=replace(resume, limit=20))


def test_official_results_hold_everyone_and_score_the_same(world: World, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "keypoints_val2017_results.json"
    report = evaluate(KnowingRunner(world, change=lose_every_third), folder, options=EvaluationOptions(output=output))
    results = json.loads(output.read_text())
    assert len(results) == report.subject.people
    assert set(results[0]) == {"image_id", "category_id", "keypoints", "score", "bbox"}
    assert len(results[0]["keypoints"]) == 51
    assert {entry["image_id"] for entry in results} <= {World.image_id(number) for number in range(24)}
    first = np.array(results[0]["keypoints"]).reshape(17, 3)
    low, high = first[:, :2].min(axis=0), first[:, :2].max(axis=0)
    assert results[0]["bbox"] == pytest.approx([*low, *(high - low)])
    assert not list(tmp_path.glob("*.jsonl"))


def test_nobody_found_is_ap_zero_and_an_empty_list(world: World, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    nobody = KnowingRunner(world, change=lambda number, people: People.none(17))
    report = evaluate(nobody, folder, options=EvaluationOptions(output=output))
    assert report.subject.metrics["AP"] == 0
    assert json.loads(output.read_text()) == []


def test_a_split_without_annotations_gives_results_and_no_figures(tmp_path: Path) -> None:
    world = World(4, seed=2)
    world.write(tmp_path, split="test2017")
    annotations = tmp_path / "annotations"
    document = json.loads((annotations / "person_keypoints_test2017.json").read_text())
    del document["annotations"]
    (annotations / "person_keypoints_test2017.json").unlink()
    (annotations / "image_info_test-dev2017.json").write_text(json.dumps(document))
    output = tmp_path / "results.json"
    data = open_dataset(tmp_path, "test-dev2017")
    report = evaluate(
        KnowingRunner(world), data, reference=KnowingRunner(world), options=EvaluationOptions(output=output)
    )
    assert report.subject.metrics == {}
    assert report.drop is report.interval is None
    assert report.agreement.ap == pytest.approx(1.0)
    assert len(json.loads(output.read_text())) == sum(len(people) for people in world.people)
    with pytest.raises(GateFailedError, match="undefined"):
        check_gate(report, 1.0)


def test_the_gate_fails_on_a_drop_and_on_anything_undefined(world: World, folder: Path) -> None:
    subject = KnowingRunner(world, change=lose_every_third)
    report = evaluate(subject, folder, reference=KnowingRunner(world), options=NO_RESAMPLES)
    drop = report.drop["AP"]
    check_gate(report, drop)
    with pytest.raises(GateFailedError) as caught:
        check_gate(report, drop - 1e-6)
    assert caught.value.exit_code == 3
    with pytest.raises(GateFailedError):
        check_gate(report, math.nan)
    with pytest.raises(GateFailedError, match="undefined"):
        check_gate(replace(report, subject=replace(report.subject, metrics={"AP": None})), 1.0)
    with pytest.raises(GateFailedError):
        check_gate(replace(report, subject=replace(report.subject, metrics={"AP": math.nan})), 1.0)
    with pytest.raises(InputError, match="needs a reference"):
        check_gate(replace(report, reference=None), 1.0)


def test_people_with_nan_fail_the_gate_even_without_a_drop(world: World, folder: Path) -> None:
    def spoil(number: int, people: People) -> People:
        extra = people_with_nan(people)
        return extra if number == 3 else people

    def people_with_nan(people: People) -> People:
        keypoints = np.concatenate([people.keypoints, np.full((1, 17, 3), np.nan, np.float32)])
        scores = np.append(people.scores, np.float32(np.nan))
        return People(keypoints, scores, np.zeros((len(scores), 17, 1), np.float32))

    report = evaluate(KnowingRunner(world, change=spoil), folder, reference=KnowingRunner(world), options=NO_RESAMPLES)
    assert report.subject.broken_people == 1
    with pytest.raises(GateFailedError, match="NaN or infinity in 1 people"):
        check_gate(report, 1.0)


def test_missing_photos_are_reported_before_anything_runs(tmp_path: Path) -> None:
    world = World(6, seed=2)
    world.write(tmp_path)
    (tmp_path / "images/val2017/000000000004.png").unlink()
    runner = KnowingRunner(world)
    with pytest.raises(InputError, match=r"1 of 6 photos are missing, the first is .*0004\.png"):
        evaluate(runner, tmp_path)
    assert runner.batches == []


def test_the_first_photo_of_another_size_than_annotated_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(6, seed=2)
    world.write(tmp_path)
    evaluate(KnowingRunner(world), tmp_path)
    assert not caplog.records
    for number in (2, 4):
        path = tmp_path / f"images/val2017/{number:012d}.png"
        photo = cv2.imread(str(path))
        assert photo is not None
        cv2.imwrite(str(path), cv2.resize(photo, None, fx=2, fy=2))
    evaluate(KnowingRunner(world), tmp_path)
    (record,) = caplog.records
    width, height = world.sizes[2]
    assert f"2.png is {2 * width}x{2 * height}, the annotation file has {width}x{height}:" in record.getMessage()


def test_photos_that_do_not_fit_a_fixed_size_engine_are_counted_before_anything_runs(
    world: World, folder: Path
) -> None:
    runner = KnowingRunner(world, fixed_size=(64, 64))
    with pytest.raises(InputError, match=r"18 of 24 photos do not fit, the first is .*64x64 only"):
        evaluate(runner, folder)
    assert runner.batches == []


def test_other_joints_are_refused(world: World, folder: Path) -> None:
    from hhrnet_deploy.skeletons import CROWDPOSE

    with pytest.raises(InputError, match=r"finds 14 joints \(crowdpose\).* has 17 \(coco\)"):
        evaluate(KnowingRunner(world, skeleton=CROWDPOSE), folder)


def test_the_package_can_be_called_as_the_public_function(world: World, folder: Path) -> None:
    assert hhrnet_deploy.evaluate(KnowingRunner(world), folder).images == 24


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        world = World(images, seed=1)
        folder = world.write(tmp_path / str(images))
        # Photos of 3 MB each when warped: keeping them would show at once.
        runner = KnowingRunner(world, short_side=1024)
        data = open_dataset(folder)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        evaluate(runner, data, options=EvaluationOptions(batch=2))
        highest = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return highest

    # How many photos are under way at once is up to the threads; the 60 more would be 180 MB.
    assert peak(80) < peak(20) + 90e6


@pytest.mark.slow
def test_a_thousand_images_of_mixed_sizes_take_the_memory_of_a_hundred(tmp_path: Path) -> None:
    world = World(1000, seed=1)
    data = open_dataset(world.write(tmp_path))
    runner = KnowingRunner(world, short_side=512)
    resident: list[int] = []

    def watch(done: int, note: str) -> None:
        if done in (100, 1000):
            pages = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE"))

    evaluate(runner, data, reference=KnowingRunner(world, short_side=512), options=NO_RESAMPLES, advance=watch)
    assert resident[1] - resident[0] < 40e6
