from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from photo_world import people_of

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.partial import ImageRecord, PartialResults
from hhrnet_deploy.people import People

RUN = {"models": ["a"], "images": "3"}


def _record(image_id: int) -> ImageRecord:
    rng = np.random.default_rng(image_id)
    people = people_of(rng.normal(0, 100, (image_id % 3, 17, 3)), rng.random(image_id % 3))
    return ImageRecord(image_id, 0.1 + image_id / 3, people, People.none(17))


def _write(path: Path, count: int) -> None:
    with PartialResults(path, RUN, resume=False) as partial:
        for image_id in range(count):
            partial.append(_record(image_id))


def test_records_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "partial.jsonl"
    _write(path, 5)
    with PartialResults(path, RUN, resume=True) as partial:
        records = list(partial.records())
    for found, expected in zip(records, map(_record, range(5)), strict=True):
        assert (found.image_id, found.network_scale) == (expected.image_id, expected.network_scale)
        assert found.subject.keypoints.tobytes() == expected.subject.keypoints.tobytes()
        assert found.subject.scores.tobytes() == expected.subject.scores.tobytes()
        assert len(found.reference) == 0


def test_a_line_that_was_cut_off_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    _write(path, 3)
    path.write_bytes(path.read_bytes()[:-9])
    with PartialResults(path, RUN, resume=True) as partial:
        assert [record.image_id for record in partial.records()] == [0, 1]
        partial.append(_record(7))
        assert [record.image_id for record in partial.records()] == [0, 1, 7]


def test_another_run_is_refused_and_its_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    _write(path, 2)
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match=r'different run \(models: \["a"\] there, \["b"\] now\)'),
        PartialResults(path, {**RUN, "models": ["b"]}, resume=True),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["[1]\n", '{"x": 1}\n', '{"hhrnet_partial_results": 99, "run": {}}\n'])
def test_a_foreign_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="no partial results file"), PartialResults(path, RUN, resume=True):
        pass
    assert path.read_text() == content


def test_a_file_cut_off_in_its_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    path.write_text('{"hhrnet_par')
    with PartialResults(path, RUN, resume=True) as partial:
        assert list(partial.records()) == []
        partial.append(_record(1))
    assert json.loads(path.read_text().splitlines()[0])["run"] == RUN


def test_without_resume_the_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    _write(path, 4)
    _write(path, 1)
    assert len(path.read_text().splitlines()) == 2


def test_a_file_without_images_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    with PartialResults(path, RUN, resume=False):
        assert path.is_file()
    assert not path.exists()


def test_nan_is_kept_out_of_the_file(tmp_path: Path) -> None:
    people = people_of(np.full((1, 17, 3), np.nan), [0.5])
    path = tmp_path / "partial.jsonl"
    with PartialResults(path, RUN, resume=False) as partial:
        partial.append(ImageRecord(1, 1.0, people, None))
        (back,) = partial.records()
    json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)
    assert np.isnan(back.subject.keypoints).all()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    with PartialResults(path, RUN, resume=False) as first:
        first.append(_record(0))
        for resume in (False, True):
            with pytest.raises(InputError, match="Another evaluation"), PartialResults(path, RUN, resume=resume):
                pass
        first.append(_record(1))
        assert [record.image_id for record in first.records()] == [0, 1]


def test_a_line_that_is_no_record_is_dropped_with_those_after_it(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    _write(path, 3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"image_id": 2, "x": 1}', *lines[2:], ""]))
    with PartialResults(path, RUN, resume=True) as partial:
        assert [record.image_id for record in partial.records()] == [0]
