"""What the card is told to do for a batch, as data: memory, order, arguments, overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.launch_table import KERNELS
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import default_skeleton
from hhrnet_deploy.targets.cuda_facts import Batch, EngineFacts, Photo, Range, buckets
from hhrnet_deploy.targets.cuda_memory import Life, lives, pack
from hhrnet_deploy.targets.cuda_ops import ALIGNMENT, Array, Copy, Infer, Launch, Record, Ref, Wait, on_one_stream
from hhrnet_deploy.targets.cuda_plan import SLOTS, BatchPlan, inverse_affine, largest_batch, plan_batch

RANGES = (Range((1, 512, 512), (8, 512, 2048)), Range((1, 512, 512), (8, 2048, 512)))
HEADS = {"coarse": "float32", "fine": "float32"}
FLIPPED = {**HEADS, "coarse_flipped": "float32", "fine_flipped": "float32"}
PEOPLE = dict.fromkeys(("keypoints", "scores", "joint_tags", "person_tags"), "float32") | {"count": "int32"}
CONFIG = DecodeConfig(skeleton=default_skeleton(17))
ENGINES = {
    "heads": EngineFacts("e", 17, "uint8", HEADS, RANGES),
    "flipped": EngineFacts("e", 17, "uint8", FLIPPED, RANGES),
    "half": EngineFacts("e", 17, "uint8", dict.fromkeys(HEADS, "float16"), RANGES),
    "float": EngineFacts("e", 17, "float", HEADS, RANGES),
    "fixed": EngineFacts("e", 17, "uint8", HEADS, (Range((4, 512, 704), (4, 512, 704)),)),
    "people": EngineFacts("e", 17, "uint8", PEOPLE, RANGES, CONFIG),
}
SIZE = (704, 512)
PHOTOS = (Photo((640, 480)), Photo((641, 480), on_device=True), Photo((1920, 1300)))


def batches(name: str) -> Iterator[Batch]:
    counts = (1, 4) if name == "fixed" else (1, 3, 5)
    switches = itertools.product((True, False), (True, False)) if name != "people" else [(True, True)]
    for count, (flip, refine) in itertools.product(counts, switches):
        config = CONFIG.model_copy(update={"flip": flip, "refine": refine})
        yield Batch(count, SIZE, "host", SIZE, config)
        if name != "float":
            yield Batch(count, SIZE, "device", SIZE, config)
    if name != "float":
        yield Batch(3, SIZE, PHOTOS, SIZE, CONFIG)
    if name != "people":
        yield Batch(2, SIZE)


PLANS = [(name, facts, batch) for name, facts in ENGINES.items() for batch in batches(name)]


@pytest.fixture(params=PLANS, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(PLANS)])
def case(request: Any) -> tuple[EngineFacts, Batch, BatchPlan]:
    _, facts, batch = request.param
    return facts, batch, plan_batch(facts, batch)


Case = tuple[EngineFacts, Batch, BatchPlan]


def test_arrays_that_live_at_the_same_time_share_no_byte(case: Case) -> None:
    _, _, plan = case
    alive = lives(plan.ops)
    placed = [(name, plan.device.offsets[name], plan.arrays[name].nbytes) for name in plan.device.offsets]
    for (one, at, size), (other, start, length) in itertools.combinations(placed, 2):
        assert not alive[one].meets(alive[other]) or at + size <= start or start + length <= at, (one, other)
    assert all(at % ALIGNMENT == 0 and at + size <= plan.device.nbytes for _, at, size in placed)
    assert set(plan.device.offsets) == {one.name for one in plan.arrays.values() if one.space == "device"}


def test_everything_is_written_before_it_is_read_and_nothing_leaves_its_array(case: Case) -> None:
    _, _, plan = case
    written = {one.name for one in plan.arrays.values() if one.space in ("host", "constant", "given")}
    for op in plan.ops:
        for ref in op.reads:
            assert ref.array in written, (op, ref)
        written |= {ref.array for ref in op.writes}
        for ref in (*op.reads, *op.writes):
            assert 0 <= ref.offset < plan.arrays[ref.array].nbytes, (op, ref)
        if isinstance(op, Copy):
            assert op.source.offset + op.nbytes <= plan.arrays[op.source.array].nbytes
            assert op.target.offset + op.nbytes <= plan.arrays[op.target.array].nbytes
    assert "host_result" in written


def test_every_launch_has_the_arguments_of_the_launch_table(case: Case) -> None:
    _, _, plan = case
    for op in plan.ops:
        if not isinstance(op, Launch):
            continue
        kernel = KERNELS[op.kernel]
        pointers = {one.name for one in (*kernel.inputs, *kernel.outputs)}
        assert [isinstance(one, Ref) for one in op.arguments] == [name in pointers for name in kernel.arguments]
        assert all(-(2**31) <= one < 2**31 for one in op.arguments if isinstance(one, int))
        assert all(isinstance(side, int) and 0 < side < 65536 for side in op.grid)


def test_every_tensor_of_the_engine_has_an_address(case: Case) -> None:
    facts, batch, plan = case
    runs = [op for op in plan.ops if isinstance(op, Infer)]
    for op in runs:
        assert [name for name, _ in op.inputs] == ["image"]
        assert {name for name, _ in op.outputs} == set(facts.outputs)
        where = (op.shape[0], *op.shape[1:3]) if facts.layout == "uint8" else (op.shape[0], *op.shape[2:4])
        assert facts.profiles[op.profile].takes(where)
    mirrored = batch.config is not None and batch.config.flip and not (facts.has_flip or facts.has_people)
    images = sum(op.shape[0] for op in runs)
    assert images == plan.filled * (2 if mirrored else 1)


def test_the_streams_of_a_batch_follow_each_other(case: Case) -> None:
    """Each stream waits for the one before it, so that operations never overlap within a batch."""
    _, _, plan = case
    events = [op for op in plan.ops if isinstance(op, Record | Wait)]
    assert events == [
        Wait("upload", "done"),
        *(Record("upload", "input"), Wait("network", "input")),
        *(Record("network", "heads"), Wait("decode", "heads")),
        Record("decode", "done"),
    ]
    order = [op.stream for op in plan.ops]
    assert order == sorted(order, key=("upload", "network", "decode").index)
    assert plan.ops[0] == events[0]
    assert plan.ops[-1] == events[-1]


def _order(plans: list[BatchPlan]) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Which operations of earlier ones each operation comes after, for batches issued one after the other."""
    before: dict[tuple[int, int], set[tuple[int, int]]] = {}
    last: dict[str, tuple[int, int]] = {}
    recorded: dict[tuple[int, str], tuple[int, int]] = {}
    for number, plan in enumerate(plans):
        for place, op in enumerate(plan.ops):
            direct = {last[op.stream]} if op.stream in last else set()
            if isinstance(op, Wait) and (number % SLOTS, op.event) in recorded:
                direct.add(recorded[number % SLOTS, op.event])
            before[number, place] = direct | {further for one in direct for further in before[one]}
            last[op.stream] = (number, place)
            if isinstance(op, Record):
                recorded[number % SLOTS, op.event] = (number, place)
    return before


def test_successive_batches_overlap_and_a_slot_is_never_taken_early() -> None:
    batch = Batch(4, SIZE, "host", SIZE, CONFIG)
    plans = [plan_batch(ENGINES["heads"], batch) for _ in range(4)]
    before = _order(plans)
    ops = list(plans[0].ops)
    upload = next(place for place, op in enumerate(ops) if isinstance(op, Copy))
    network = next(place for place, op in enumerate(ops) if isinstance(op, Infer))
    decode = next(place for place, op in enumerate(ops) if op.stream == "decode" and isinstance(op, Launch))
    done = len(ops) - 1
    assert (0, network) not in before[1, upload], "the next upload runs beside this network"
    assert (0, decode) not in before[1, network], "the next network runs beside this decoding"
    assert (0, network) in before[1, network], "one context runs one batch at a time"
    assert (0, done) in before[2, upload], "the third batch has the first one's memory"
    assert (1, upload) not in before[2, upload] or (1, done) not in before[2, upload]


def test_starting_a_batch_holds_no_wait_of_the_host(case: Case) -> None:
    assert {type(op) for op in case[2].ops} <= {Copy, Launch, Infer, Record, Wait}


def test_a_graph_needs_no_events_and_the_same_work(case: Case) -> None:
    ops = on_one_stream(case[2].ops)
    assert {op.stream for op in ops} == {"network"}
    assert len(ops) == len([op for op in case[2].ops if not isinstance(op, Record | Wait)])


def test_the_mirrored_images_run_in_the_same_batch_where_the_engine_takes_it() -> None:
    joined = plan_batch(ENGINES["heads"], Batch(4, SIZE, "host", SIZE, CONFIG))
    apart = plan_batch(ENGINES["heads"], Batch(5, SIZE, "host", SIZE, CONFIG))
    assert [op.shape[0] for op in joined.ops if isinstance(op, Infer)] == [8]
    assert [op.shape[0] for op in apart.ops if isinstance(op, Infer)] == [5, 5]


def test_memory_is_bounded_and_shared() -> None:
    plan = plan_batch(ENGINES["heads"], Batch(4, SIZE, "host", SIZE, CONFIG))
    alone = sum(one.nbytes for one in plan.arrays.values() if one.space == "device")
    assert plan.device.nbytes < alone
    # Heads of eight runs, the merged map, and little else.
    largest = sum(plan.arrays[name].nbytes for name in ("coarse", "fine", "heat", "tags"))
    assert plan.device.nbytes < 1.1 * largest


def test_no_room_is_answered_with_a_batch_that_fits() -> None:
    facts, batch = ENGINES["heads"], Batch(8, SIZE, "host", SIZE, CONFIG)
    need = [SLOTS * plan_batch(facts, replace(batch, count=count)).device.nbytes for count in range(1, 9)]
    assert largest_batch(facts, batch, need[4]) == 5
    assert largest_batch(facts, batch, need[0] - 1) == 0
    assert largest_batch(ENGINES["fixed"], replace(batch, count=4), 1 << 60) == 0


def test_sizes_that_no_profile_takes_are_refused() -> None:
    with pytest.raises(InputError, match=r"9 images of 512x704 .* it takes 1x512x512 .* to 8x512x2048"):
        plan_batch(ENGINES["heads"], Batch(9, SIZE, "host", SIZE, CONFIG))
    assert ENGINES["heads"].need_profile((1, 1024, 512)) == 1


def test_buckets_hold_every_image_once_in_order() -> None:
    sizes = [(704, 512), (512, 704), (704, 512), (768, 512), (704, 512), (512, 704), (704, 512)]
    found = buckets(sizes, 3)
    assert [(one.size, one.images) for one in found] == [
        ((704, 512), (0, 2, 4)),
        ((512, 704), (1, 5)),
        ((768, 512), (3,)),
        ((704, 512), (6,)),
    ]
    assert buckets([], 4) == []
    assert [one.images for one in buckets(sizes, None)] == [(0, 2, 4, 6), (1, 5), (3,)]


def test_packing_reuses_the_place_of_what_is_over() -> None:
    arrays = [Array("a", "uint8", (1000,)), Array("b", "uint8", (900,)), Array("c", "uint8", (100,))]
    layout = pack(arrays, {"a": Life(0, 1), "b": Life(2, 3), "c": Life(1, 2)})
    assert layout.offsets == {"a": 0, "b": 0, "c": 1024}
    assert layout.nbytes == 1280


def test_the_inverse_matrix_is_that_of_the_native_warp() -> None:
    import numpy as np

    from hhrnet_deploy.data.warp import Warp

    for width, height in ((640, 480), (333, 517), (1920, 1080), (300, 1000)):
        matrix = Warp.plan(width, height, 512).matrix
        twice = inverse_affine(np.array(inverse_affine(matrix)).reshape(2, 3))
        np.testing.assert_allclose(twice, matrix.reshape(-1), rtol=1e-12, atol=1e-9)
