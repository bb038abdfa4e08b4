"""decode_heads: what it takes, what it refuses, and what the settings do."""

import numpy as np
import pytest
from fields import Field, stack

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import coordinate_grid, decode_heads, native
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import Skeleton

DECODERS = ["native", "reference"]
FIELD = Field(people=3, width=48, height=32)
ONE_JOINT = Skeleton(name="one", joints=("head",), flip_pairs=(), sigmas=(0.1,))
UNUSABLE_PLACES = [(0, (1, 3, 2, 5)), (0, (1, 20, 2, 5)), (1, (0, 16, 31, 47)), (2, (1, 30, 0, 0))]


def assert_equal(a: People, b: People) -> None:
    for name in ("keypoints", "scores", "tags"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def one_person(x: int, y: int, *, width: int = 32, height: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Heads with one joint of type 0 at (x, y) of ``fine`` and nothing else."""
    coarse = np.zeros((1, 34, height // 2, width // 2), np.float32)
    fine = np.zeros((1, 17, height, width), np.float32)
    fine[0, 0, y, x] = 1.0
    coarse[0, 17:] = 3.0
    return coarse, fine


@pytest.mark.parametrize("decoder", DECODERS)
def test_coordinates_are_those_of_the_network_input(decoder: str) -> None:
    (people,) = decode_heads(one_person(10, 6), config=DecodeConfig(refine=False), decoder=decoder)
    assert people.count == 1
    np.testing.assert_allclose(people.keypoints[0, 0, :2], (2 * 10 + 1, 2 * 6 + 1), atol=1.0)
    assert not people.keypoints[0, 1:].any()
    assert people.scores[0] == pytest.approx(people.keypoints[0, 0, 2] / 17)
    np.testing.assert_array_equal(people.tags[0, :, 0], [3.0] + [0.0] * 16)


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_projection_the_grid_is_that_of_fine(decoder: str) -> None:
    config = DecodeConfig(project=False, adjust=False, refine=False)
    (people,) = decode_heads(one_person(10, 6), config=config, decoder=decoder)
    np.testing.assert_array_equal(people.keypoints[0, 0], (10, 6, 0.5))
    assert coordinate_grid(one_person(10, 6), config=config) == (32, 24)
    assert coordinate_grid(one_person(10, 6)) == (64, 48)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_order_of_scales_does_not_matter(decoder: str) -> None:
    small = Field(people=3, width=24, height=16).draw(1)
    large = Field(people=3, width=96, height=64).draw(1)
    middle = FIELD.draw(1)
    one = decode_heads([(1, middle), (2, large), (0.5, small)], decoder=decoder)
    other = decode_heads([(0.5, small), (2.0, large), (1.0, Heads(*middle))], decoder=decoder)
    assert one[0].count > 0
    assert_equal(one[0], other[0])
    assert coordinate_grid([(0.5, small), (1, middle)]) == (96, 64)


def test_a_single_scale_needs_no_scale_one() -> None:
    heads = FIELD.draw(1)
    assert_equal(decode_heads([(0.5, heads)])[0], decode_heads(heads)[0])


def test_flipped_heads_are_ignored_when_flip_is_off() -> None:
    heads = FIELD.draw(2, flip=True)
    assert_equal(decode_heads(heads, config=DecodeConfig(flip=False))[0], decode_heads(heads[:2])[0])
    assert decode_heads(heads)[0].tags.shape[2] == 2


@pytest.mark.parametrize("decoder", DECODERS)
def test_max_output_keeps_the_best_in_order_and_the_true_count(decoder: str) -> None:
    heads = Field(people=8, width=64, height=64).draw(5)
    (everybody,) = decode_heads(heads, decoder=decoder)
    (best,) = decode_heads(heads, config=DecodeConfig(max_output=3), decoder=decoder)
    assert len(best) == 3
    assert best.count == len(everybody) > 3
    assert best.scores.min() >= np.sort(everybody.scores)[-3]
    assert_equal(best, everybody.highest(3))


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_image_of_a_batch_is_decoded_alone(decoder: str) -> None:
    images = [Field(people=people, width=48, height=32).draw(people, flip=True) for people in (0, 4, 1, 7)]
    together = decode_heads(stack(images), decoder=decoder)
    assert [found.count > 0 for found in together] == [False, True, True, True]
    for image, found in zip(images, together, strict=True):
        assert_equal(found, decode_heads(image, decoder=decoder)[0])


def test_an_empty_batch_has_no_people() -> None:
    assert decode_heads((np.zeros((0, 34, 4, 4), np.float32), np.zeros((0, 17, 8, 8), np.float32))) == []


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize(("which", "place"), UNUSABLE_PLACES)
def test_unusable_values_are_refused_by_name_and_place(decoder: str, value: float, which: int, place: tuple) -> None:
    heads = stack([FIELD.draw(1, flip=True), FIELD.draw(2, flip=True)])
    heads[which][place] = value
    name = ("coarse", "fine", "coarse_flipped", "fine_flipped")[which]
    image, channel, y, x = place
    with pytest.raises(InputError, match=rf"{name} .*image {image} in channel {channel} at y {y}, x {x}"):
        decode_heads(heads, decoder=decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_infinite_float16_values_are_refused(decoder: str) -> None:
    heads = FIELD.draw(1, dtype=np.float16)
    heads[1][0, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="fine"):
        decode_heads(heads, decoder=decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_dlpack_inputs_are_taken(decoder: str) -> None:
    import torch

    heads = FIELD.draw(4, flip=True)
    tensors = tuple(torch.from_numpy(array) for array in heads)
    assert_equal(decode_heads(tensors, decoder=decoder)[0], decode_heads(heads, decoder=decoder)[0])


def test_any_skeleton_of_up_to_64_joints_can_be_given() -> None:
    joints = tuple(f"joint{index}" for index in range(64))
    skeleton = Skeleton(name="many", joints=joints, flip_pairs=((0, 1), (5, 9)), sigmas=(0.1,) * 64)
    heads = Field(people=2, joints=64, width=32, height=32).draw(1, flip=True)
    config = DecodeConfig(skeleton=skeleton)
    native_people, reference_people = (decode_heads(heads, config=config, decoder=name)[0] for name in DECODERS)
    assert native_people.count > 0
    assert_equal(native_people, reference_people)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": [(0.5, FIELD.draw(1)), (2, FIELD.draw(1))]}, "need scale 1"),
        ({"heads": [(1, FIELD.draw(1)), (1.0, FIELD.draw(1))]}, "given once"),
        ({"heads": [(1, FIELD.draw(1)), (2, FIELD.draw(1, flip=True))]}, "flip"),
        ({"heads": [(1, FIELD.draw(1)), (-2, FIELD.draw(1))]}, "positive"),
        ({"heads": FIELD.draw(1)[:1]}, "have to be Heads"),
        ({"heads": Field(people=1, joints=9).draw(1)}, "no built-in skeleton"),
        ({"heads": FIELD.draw(1), "size": (0, 12)}, "size has to be"),
        ({"heads": FIELD.draw(1), "decoder": "fast"}, "decoder has to be"),
        ({"heads": FIELD.draw(1), "config": DecodeConfig(skeleton=ONE_JOINT)}, "1 joints"),
        ({"heads": (FIELD.draw(1)[0].astype(np.float64), FIELD.draw(1)[1])}, "float32 or float16"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_heads(**arguments)


def test_a_missing_native_module_is_an_error_and_no_silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hhrnet_deploy.decode._native", None)
    monkeypatch.delattr("hhrnet_deploy.decode._native", raising=False)
    with pytest.raises(HHRNetError, match="pip install -e"):
        native.load_native()
    assert decode_heads(FIELD.draw(1), decoder="reference")
