"""The compiled decoder finds the people of the reference, bit for bit."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fields import Field, stack

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import native
from hhrnet_deploy.decode.reference import decoder as reference
from hhrnet_deploy.decode.request import DecodeRequest, make_request
from hhrnet_deploy.people import People


def assert_same_bits(a: People, b: People) -> None:
    assert a.keypoints.shape == b.keypoints.shape
    for name in ("keypoints", "scores", "tags"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name


def check(request: DecodeRequest, *, variants: bool = False) -> int:
    """Compare every image and return how many people there are."""
    expected = reference.decode(request)
    for variant in native.load_native().variants() if variants else [""]:
        for one, other in zip(expected, native.decode(request, variant=variant), strict=True):
            assert_same_bits(one, other)
    return sum(len(people) for people in expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("people", [0, 1, 5, 31])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_random_fields(people: int, flip: bool, dtype: type) -> None:
    field = Field(people=people, width=72, height=56)
    found = check(make_request(field.draw(people, flip=flip, dtype=dtype), None, DecodeConfig()), variants=True)
    assert (found > 0) == (people > 0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "field",
    [
        Field(people=12, tag_step=0.5, tag_spread=3),
        Field(people=12, tag_step=1.0, tag_spread=2, noise=0),
        Field(people=8, heat_step=0.25, noise=0.1),
        Field(people=8, heat_step=0.5, noise=0.3, tag_step=1.0),
        Field(people=20, duplicates=0.5, noise=0),
        Field(people=30, tag_spread=0.3),
    ],
    ids=["rounded_distances", "equal_tags", "plateaus", "everything_equal", "duplicates", "one_tag"],
)
def test_ties_on_purpose(field: Field, flip: bool) -> None:
    config = DecodeConfig(max_people=20)
    assert check(make_request(field.draw(11, flip=flip), None, config)) > 0


def test_constant_heads_are_one_plateau() -> None:
    heads = np.full((1, 34, 20, 20), 0.5, np.float32), np.full((1, 17, 40, 40), 0.5, np.float32)
    assert check(make_request(heads, None, DecodeConfig())) == 1


def test_a_hundred_people_and_a_limit_of_a_hundred() -> None:
    field = Field(people=100, width=160, height=120, missing=0.6, tag_spread=100)
    assert check(make_request(field.draw(0), None, DecodeConfig(max_people=100, refine=False))) > 90


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 7), (5, 1), (2, 3), (17, 9), (33, 31), (75, 50)])
@pytest.mark.parametrize("coarse", [None, (1, 1), (7, 5), (40, 41)])
def test_awkward_sizes(width: int, height: int, coarse: tuple[int, int] | None) -> None:
    field = Field(people=6, width=width, height=height, coarse_size=coarse, noise=0.1)
    for flip in (False, True):
        heads = field.draw(width * height, flip=flip)
        check(make_request(heads, None, DecodeConfig()))
        check(make_request(heads, (2 * width + 3, max(1, height - 1)), DecodeConfig(nms_kernel=31)))


@pytest.mark.slow
def test_the_largest_map() -> None:
    field = Field(people=30, width=480, height=270)
    assert check(make_request(field.draw(1, flip=True), None, DecodeConfig()), variants=True) >= 30


@pytest.mark.parametrize("seed", range(12))
def test_random_settings_and_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = Field(people=int(rng.integers(1, 25)), joints=int(rng.choice([14, 17])), width=40, height=32, noise=0.03)
    flip = bool(rng.random() < 0.5)
    scaled = [(1.0, field.draw(seed, flip=flip))]
    for scale in ((0.5, 2.0), (0.7,), ())[seed % 3]:
        sized = dataclasses.replace(field, width=int(40 * scale), height=int(32 * scale))
        scaled.append((scale, sized.draw(seed, flip=flip)))
    config = DecodeConfig(
        adjust=bool(rng.random() < 0.7),
        refine=bool(rng.random() < 0.7),
        project=bool(rng.random() < 0.7),
        use_detection_val=bool(rng.random() < 0.7),
        ignore_too_much=bool(rng.random() < 0.4),
        detection_threshold=float(rng.choice([0.0, 0.1, 0.3])),
        tag_threshold=float(rng.choice([0.5, 1.0, 2.0])),
        nms_kernel=int(rng.choice([1, 3, 5, 9])),
        max_people=int(rng.choice([1, 7, 30])),
    )
    size = (int(rng.integers(1, 120)), int(rng.integers(1, 120))) if seed % 2 else None
    assert check(make_request(scaled, size, config)) > 0


def test_threads_do_not_change_the_result() -> None:
    heads = stack([Field(people=seed, width=40, height=40).draw(seed) for seed in range(7)])
    request = make_request(heads, None, DecodeConfig())
    for one, other in zip(native.decode(request, threads=1), native.decode(request, threads=5), strict=True):
        assert_same_bits(one, other)


def test_views_are_read_in_place_and_odd_strides_are_copied() -> None:
    coarse, fine = Field(people=4, width=48, height=40).draw(1)
    expected = native.decode(make_request((coarse, fine), None, DecodeConfig()))[0]
    room = np.zeros((3, 20, 44, 60), np.float32)
    room[1:2, 2:19, 3:43, 5:53] = fine
    channels_last = np.ascontiguousarray(coarse.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    request = make_request((channels_last, room[1:2, 2:19, 3:43, 5:53]), None, DecodeConfig())
    assert_same_bits(native.decode(request)[0], expected)


def test_the_workspace_is_small() -> None:
    field = Field(people=0, width=352, height=256)
    request = make_request(field.draw(0, flip=True), None, DecodeConfig())
    assert native.workspace_bytes(request) < 16e6
    half = make_request(field.draw(0, flip=True, dtype=np.float16), None, DecodeConfig())
    assert native.workspace_bytes(half) < 16e6


def _signatures(text: str) -> dict[str, list[str]]:
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return {node.name: [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)] for node in functions}


def test_the_stub_names_what_the_module_has() -> None:
    from nanobind import stubgen

    module = native.load_native()
    generator = stubgen.StubGen(module)
    generator.put(module)
    stub = Path(native.__file__).with_name("_native.pyi").read_text()
    assert _signatures(stub) == _signatures(generator.get())
