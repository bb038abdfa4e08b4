from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photo_world import SHORT_SIDE, KnowingRunner, World, color_of

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.targets.photos import check_fits, predict_photos, stream_photos

CONFIG = InferenceConfig(short_side=SHORT_SIDE)


def _photo(world: World, number: int) -> np.ndarray:
    width, height = world.sizes[number]
    return np.full((height, width, 3), color_of(number), np.uint8)


def _photos(world: World, numbers: Any = None) -> Any:
    return ((number, _photo(world, number)) for number in (numbers or range(len(world.sizes))))


def _answered(stream: Any) -> tuple[list[Any], BaseException | None]:
    """The keys answered before the stream ended, and what ended it."""
    keys = []
    try:
        for key, _ in stream:
            keys.append(key)
    except Exception as error:
        return keys, error
    return keys, None


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0), (0.5, 1.0)])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_people_come_in_input_order_in_pixels_of_their_photos(batch: int, scales: tuple[float, ...]) -> None:
    world = World(40)
    config = InferenceConfig(short_side=SHORT_SIDE, scales=scales)
    with KnowingRunner(world) as runner:
        found = list(predict_photos(runner, _photos(world), config, batch=batch))
    assert [key for key, _ in found] == list(range(40))
    for key, people in found:
        np.testing.assert_allclose(people.keypoints, world.people[key].keypoints, atol=1e-3)


def test_batches_hold_photos_of_one_shape_and_do_not_depend_on_timing() -> None:
    world = World(60)
    seen = []
    for pause in (0.0, 0.004):
        with KnowingRunner(world) as runner:
            runner.pause = pause
            list(stream_photos(runner, _photos(world), CONFIG, batch=4, workers=3))
        seen.append(runner.batches)
    assert seen[0] == seen[1]
    assert all(len({world.sizes[number] for number in numbers}) == 1 for numbers in seen[0])
    assert max(map(len, seen[0])) == 4


def test_no_batch_is_larger_than_the_engine_takes() -> None:
    world = World(24)
    with KnowingRunner(world, max_batch=2) as runner:
        list(stream_photos(runner, _photos(world), CONFIG, batch=8))
    assert max(map(len, runner.batches)) == 2


def test_the_scale_and_the_sizes_are_told() -> None:
    world = World(4)
    with KnowingRunner(world) as runner:
        results = list(stream_photos(runner, _photos(world), CONFIG))
    wide = results[3]  # 150 x 64 becomes 192 x 64
    assert (wide.photo_size, wide.network_size) == ((150, 64), (192, 64))
    assert wide.network_scale == pytest.approx(1.0)
    small = results[2]  # 80 x 80 becomes 64 x 64
    assert (small.network_size, small.network_scale) == ((64, 64), pytest.approx(0.8))


def test_unprojected_people_are_mapped_from_the_grid_of_the_fine_head() -> None:
    world = World(4)

    def halved(number: int, people: Any) -> Any:
        return people.with_keypoints(people.keypoints * np.float32([0.5, 0.5, 1]))

    config = InferenceConfig(short_side=SHORT_SIDE, decode=DecodeConfig(project=False))
    with KnowingRunner(world, change=halved) as runner:
        for key, people in predict_photos(runner, _photos(world), config):
            np.testing.assert_allclose(people.keypoints, world.people[key].keypoints, atol=1e-3)


def test_only_a_bounded_number_of_photos_is_drawn_ahead() -> None:
    world = World(200)
    drawn = []

    def photos() -> Any:
        for number in range(200):
            drawn.append(number)
            yield number, _photo(world, number)

    with KnowingRunner(world) as runner:
        stream = stream_photos(runner, photos(), CONFIG, batch=2, workers=2)
        next(stream)
        # A window of 8, two batches with the engine, four being read.
        assert len(drawn) <= 8 + 2 * 2 + 4
        stream.close()


@pytest.mark.parametrize("batch", [1, 4])
def test_photos_before_a_broken_one_are_answered_then_its_name_is_raised(batch: int, tmp_path: Path) -> None:
    world = World(12)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    photos = [*_photos(world, range(7)), ("x", broken), *_photos(world, range(8, 12))]
    with KnowingRunner(world) as runner:
        answered, error = _answered(predict_photos(runner, photos, CONFIG, batch=batch))
    assert answered == list(range(7))
    assert isinstance(error, InputError)
    assert "broken.jpg" in str(error)


def test_an_array_of_the_wrong_shape_is_named_by_its_key() -> None:
    world = World(2)
    with KnowingRunner(world) as runner, pytest.raises(InputError, match=r"Photo frame 7: .*\(4, 4\)"):
        list(predict_photos(runner, [("frame 7", np.zeros((4, 4), np.uint8))], CONFIG))


def test_an_error_of_the_engine_names_the_photos_of_its_batch() -> None:
    world = World(6)

    def fail(number: int, people: Any) -> Any:
        if number == 4:
            raise HHRNetError("returned NaN")
        return people

    with KnowingRunner(world, change=fail) as runner:
        answered, error = _answered(predict_photos(runner, _photos(world), CONFIG))
    assert answered == [0, 1, 2, 3]
    assert isinstance(error, HHRNetError)
    assert error.fact == "Photo 4: returned NaN"


def test_an_error_of_the_engine_names_files_by_their_paths(tmp_path: Path) -> None:
    def fail(number: int, people: Any) -> Any:
        raise HHRNetError("returned NaN")

    path = tmp_path / "some.png"
    cv2.imwrite(str(path), np.ascontiguousarray(_photo(World(1), 0)[:, :, ::-1]))
    with KnowingRunner(World(1), change=fail) as runner:
        _, error = _answered(predict_photos(runner, [(0, path)], CONFIG))
    assert str(error) == f"Photo {path}: returned NaN"


def test_photos_given_as_arrays_count_towards_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(60)
    monkeypatch.setattr("hhrnet_deploy.targets.photos._WINDOW_BYTES", 2 * _photo(world, 0).nbytes)
    drawn = []

    def photos() -> Any:
        for number in range(60):
            drawn.append(number)
            yield number, _photo(world, 0)

    with KnowingRunner(world) as runner:
        stream = stream_photos(runner, photos(), CONFIG, batch=16, workers=1)
        next(stream)
        assert len(drawn) <= 10
        stream.close()


def test_an_error_of_the_source_comes_after_the_photos_before_it() -> None:
    world = World(3)

    def photos() -> Any:
        yield from _photos(world)
        raise OSError("the camera is gone")

    with KnowingRunner(world) as runner:
        answered, error = _answered(predict_photos(runner, photos(), CONFIG))
    assert answered == [0, 1, 2]
    assert isinstance(error, OSError)


def test_closing_the_stream_stops_its_threads() -> None:
    world = World(50)
    with KnowingRunner(world) as runner:
        stream = stream_photos(runner, _photos(world), CONFIG, workers=3)
        next(stream)
        stream.close()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("hhrnet-photos") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_fixed_size_engine_takes_only_photos_of_its_size() -> None:
    world = World(4)
    with KnowingRunner(world, fixed_size=(64, 64)) as runner:
        ((_, people),) = predict_photos(runner, [(2, _photo(world, 2))], CONFIG)
        np.testing.assert_allclose(people.keypoints, world.people[2].keypoints, atol=1e-3)
        with pytest.raises(InputError, match=r"96x64 becomes a network input of 128x64.*64x64 only") as caught:
            list(predict_photos(runner, [(0, _photo(world, 0))], CONFIG))
        assert "without --size" in caught.value.hint
        assert "--size 64" not in caught.value.hint
        with pytest.raises(InputError, match="64x64 only") as caught:
            check_fits(runner, InferenceConfig(short_side=128), (80, 80))
        assert caught.value.hint.endswith("For those that fit this one: --size 64.")
        with pytest.raises(InputError, match="several scales"):
            check_fits(runner, InferenceConfig(short_side=SHORT_SIDE, scales=(1.0, 2.0)), (80, 80))


def test_too_long_photos_are_refused_with_the_option() -> None:
    world = World(4)
    config = InferenceConfig(short_side=SHORT_SIDE, max_long_side=100)
    with KnowingRunner(world) as runner, pytest.raises(InputError, match="at most 100") as caught:
        list(predict_photos(runner, [("long.jpg", _photo(world, 3))], config))
    assert "long.jpg" in str(caught.value)
    assert "--max-long-side" in str(caught.value)


def test_no_photos_give_no_results() -> None:
    world = World(1)
    with KnowingRunner(world) as runner:
        assert list(predict_photos(runner, [], CONFIG)) == []
