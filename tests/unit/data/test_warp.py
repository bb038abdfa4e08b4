"""The warp: sizes, pixels and the way back of the published results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hhrnet_deploy.data.warp import Warp, plan_scales
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People


@pytest.mark.parametrize(
    ("photo", "short_side", "size"),
    [
        ((640, 480), 512, (704, 512)),
        ((640, 427), 512, (768, 512)),
        ((480, 640), 512, (512, 704)),
        ((1920, 1080), 512, (960, 512)),
        ((640, 480), 640, (896, 640)),
        ((512, 512), 512, (512, 512)),
        ((1, 1), 512, (512, 512)),
        ((1, 2), 64, (64, 128)),
        ((640, 480), 500, (704, 512)),
        ((641, 320), 512, (1088, 512)),
    ],
)
def test_input_size_is_the_published_one(photo, short_side, size):
    assert Warp.plan(*photo, short_side).size == size


def test_sizes_of_several_scales_follow_from_the_smallest():
    plan = plan_scales(640, 480, 512, (0.5, 1, 2))
    assert [(scale, warp.size) for scale, warp in plan.warps] == [
        (2, (1536, 1024)),
        (1, (768, 512)),
        (0.5, (384, 256)),
    ]
    assert plan.size == (768, 512)


def test_a_single_scale_other_than_one_is_decoded_on_the_grid_of_scale_one():
    plan = plan_scales(640, 480, 512, (0.5,))
    assert [warp.size for _, warp in plan.warps] == [(384, 256)]
    assert plan.size == (768, 512)


def test_fractional_scales_round_down_as_published():
    plan = plan_scales(640, 480, 512, (0.7, 1.0, 1.3))
    assert [warp.size for _, warp in plan.warps] == [(950, 713), (731, 548), (512, 383)]  # 384 * 0.7 / 0.7 is below 384


def test_a_scale_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match=r"Scale 0\.001 leaves no pixel of a short side of 256"):
        plan_scales(640, 480, 256, (0.001, 1.0))


def test_back_mapping_uses_the_aspect_of_the_smallest_scale():
    # 512x383 at 0.7 is not quite the aspect of 731x548 at 1: the official loop leaves the last scale's numbers behind.
    plan = plan_scales(640, 480, 512, (0.7, 1.0))
    [left, right] = plan.to_image(_people([[0, 0], [731, 0]])).keypoints[0, :, 0]
    assert right - left == pytest.approx(512 / 383 * 480, abs=1e-3)


def test_long_side_beyond_the_cap_names_size_and_option():
    with pytest.raises(InputError, match=r"20000x500.*20480x512 network input(.|\n)*--max-long-side 20480"):
        Warp.plan(20000, 500, 512)
    with pytest.raises(InputError, match="512x20480 network input"):
        Warp.plan(500, 20000, 512)
    assert Warp.plan(20000, 500, 512, max_long_side=20480).size == (20480, 512)


def test_cap_itself_is_allowed():
    assert Warp.plan(4096, 512, 512).size == (4096, 512)
    with pytest.raises(InputError, match="4160x512"):
        Warp.plan(4097, 512, 512)


@pytest.mark.parametrize("photo", [(0, 5), (5, 0), (40000, 30000)])
def test_impossible_photos_are_refused(photo):
    with pytest.raises(InputError, match="photo"):
        Warp.plan(*photo, 512)


def test_wrong_image_is_refused():
    warp = Warp.plan(6, 4, 64)
    with pytest.raises(InputError, match=r"\(4, 6, 3\)"):
        warp.apply(np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(InputError, match="uint8"):
        warp.apply(np.zeros((4, 6, 3), np.float32))


def test_one_pixel_photo_fills_a_corner_as_published():
    warp = Warp.plan(1, 1, 64)
    pixels = warp.apply(np.full((1, 1, 3), 200, np.uint8))
    # The centre of a 1x1 photo is (1, 1) by the published rule, outside the photo; so the pixel lands at (-32, -32).
    np.testing.assert_allclose(warp.matrix, [[64, 0, -32], [0, 64, -32]])
    assert pixels.shape == (64, 64, 3)
    assert 0 < pixels.max() <= 200
    assert not pixels[32:, 32:].any()


def test_content_is_centred_on_black():
    # 640x427 -> 768x512: scale 512/427, content 767.4 wide.
    pixels = Warp.plan(100, 90, 256).apply(np.full((90, 100, 3), 255, np.uint8))
    assert pixels.shape == (256, 320, 3)
    filled = np.flatnonzero(pixels[128, :, 0] > 127)
    assert 0 < filled[0] <= 320 - filled[-1] < 22
    assert pixels[:, 0].max() == 0


def test_very_long_photo():
    warp = Warp.plan(20000, 1300, 256)
    image = np.zeros((1300, 20000, 3), np.uint8)
    image[:, 10000:] = 255
    pixels = warp.apply(image)
    assert pixels.shape == (256, 3968, 3)
    assert pixels[128, 1970].tolist() == [0, 0, 0]
    assert pixels[128, 1998].tolist() == [255, 255, 255]


def test_negative_strides_are_taken():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    warp = Warp.plan(30, 40, 64)
    np.testing.assert_array_equal(warp.apply(image[:, :, ::-1])[:, :, ::-1], warp.apply(image))


def _fixed_point_warp(image, matrix, size):
    """OpenCV 4's bilinear warpAffine: 10-bit deltas, 1/32 pixel, 15-bit weights (imgproc/src/imgwarp.cpp)."""
    (m0, m1, m2), (m3, m4, m5) = matrix
    determinant = 1.0 / (m0 * m4 - m1 * m3)
    a0, a1, a3, a4 = m4 * determinant, -m1 * determinant, -m3 * determinant, m0 * determinant
    b0, b1 = -a0 * m2 - a1 * m5, -a3 * m2 - a4 * m5
    columns, rows = np.arange(size[0]), np.arange(size[1])[:, None]

    def fixed(value):
        return np.rint(value * 1024).astype(np.int64)

    x = (fixed(a1 * rows + b0) + 16 + fixed(a0 * columns)) >> 5
    y = (fixed(a4 * rows + b1) + 16 + fixed(a3 * columns)) >> 5
    padded = np.pad(image.astype(np.int64), ((1, 2), (1, 2), (0, 0)))

    def pixel(row, column):
        return padded[np.clip(row + 1, 0, image.shape[0] + 1), np.clip(column + 1, 0, image.shape[1] + 1)]

    (left, right), (top, bottom) = ((32 - (v & 31), v & 31) for v in (x, y))
    total = np.int64(1) << 14
    for row, vertical in ((y >> 5, top), ((y >> 5) + 1, bottom)):
        for column, horizontal in ((x >> 5, left), ((x >> 5) + 1, right)):
            total = total + pixel(row, column) * (vertical * horizontal * 32)[..., None]
    return (total >> 15).astype(np.uint8)


@pytest.mark.parametrize("photo", [(64, 48), (48, 64), (1, 1), (3, 200), (127, 127), (333, 500), (640, 427), (2, 1)])
@pytest.mark.parametrize("short_side", [64, 256])
def test_pixels_are_those_of_fixed_point_opencv(photo, short_side):
    """Guards the installed OpenCV: another interpolation would move every published figure a little."""
    image = np.random.default_rng(sum(photo)).integers(0, 256, (photo[1], photo[0], 3), dtype=np.uint8)
    warp = Warp.plan(*photo, short_side, max_long_side=20000)
    np.testing.assert_array_equal(warp.apply(image), _fixed_point_warp(image, warp.matrix, warp.size))


def _people(points) -> People:
    xy = np.asarray(points, np.float32)
    keypoints = np.concatenate([xy, np.full((len(xy), 1), 0.5, np.float32)], axis=1)[None]
    return People(keypoints, np.array([0.25], np.float32), np.zeros((1, len(xy), 2), np.float32))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([256, 512, 640]),
    st.sampled_from([(1.0,), (0.5, 1.0, 2.0), (1.0, 2.0)]),
)
def test_back_mapping_inverts_the_warp(width, height, short_side, scales):
    plan = plan_scales(width, height, short_side, scales, max_long_side=10**7)
    [base] = [warp for scale, warp in plan.warps if scale == 1.0]
    photo = np.array([[0, 0], [width, height], [width / 3, height / 7], [-width, 2 * height]], np.float64)
    network = photo @ base.matrix[:, :2].T + base.matrix[:, 2]
    back = plan.to_image(_people(network)).keypoints[0, :, :2]
    np.testing.assert_allclose(back, photo, atol=1e-4 * max(width, height) + 1e-6 * np.abs(network).max())


def test_uniform_scale_and_centres():
    warp = Warp.plan(641, 427, 512)
    (scale, skew, _), (skew_back, scale_down, _) = warp.matrix
    assert scale == pytest.approx(512 / 427, rel=1e-6)
    assert (scale_down, skew, skew_back) == pytest.approx((scale, 0, 0), abs=1e-6)
    np.testing.assert_allclose(warp.matrix @ [321, 214, 1], [384, 256], atol=1e-3)


def test_missing_joints_are_mapped_and_scores_kept():
    warp = Warp.plan(640, 480, 512)
    people = warp.to_image(_people([[0, 0], [352, 256]]))
    # (0, 0) of the input lies left of the photo: 704 px show 660 photo pixels around x = 320.
    np.testing.assert_allclose(people.keypoints[0], [[-10, 0, 0.5], [320, 240, 0.5]], atol=1e-4)
    assert people.scores.tolist() == [0.25]
    assert people.keypoints.dtype == np.float32


def test_grid_of_another_size():
    warp = Warp.plan(640, 480, 512)
    half = warp.to_image(_people([[176, 128]]), size=(352, 256))
    np.testing.assert_allclose(half.keypoints[0, 0, :2], [320, 240], atol=1e-4)


def test_nobody_stays_nobody():
    people = Warp.plan(640, 480, 512).to_image(People.none(17, 2))
    assert people.keypoints.shape == (0, 17, 3)


def test_input_is_left_alone():
    people = _people([[1, 2]])
    before = people.keypoints.copy()
    Warp.plan(640, 480, 512).to_image(people)
    np.testing.assert_array_equal(people.keypoints, before)
