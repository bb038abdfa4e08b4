"""The runtime on a simulated card: the kernels run on the host, streams run their work at random, late and apart.

test_pycuda.py runs this file once more with pycuda itself.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sim_card import Card
from sim_trt import write_plan

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import BundleError, HHRNetError, InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.cuda_errors import CudaError, CudaMemoryError
from hhrnet_deploy.targets.cuda_graph_run import GraphRun
from hhrnet_deploy.targets.cuda_runner import CudaRunner
from hhrnet_deploy.targets.cuda_session import Opening
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.onnxruntime import OnnxRuntimeRunner
from hhrnet_deploy.targets.photos import predict_photos
from hhrnet_deploy.targets.runner import RunnerInfo
from hhrnet_deploy.targets.target import RunOptions

# The tiny network is untrained: its heads reach 100, its tags differ by as much.
CONFIG = DecodeConfig(detection_threshold=15, tag_threshold=20)
pytestmark = pytest.mark.xdist_group("simulated-card")

LANDSCAPE = [[1, 64, 64, 3], [4, 64, 256, 3]]
PORTRAIT = [[1, 64, 64, 3], [4, 256, 64, 3]]


@pytest.fixture
def card(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[Card]:
    """A card that runs what it is given in an order drawn from the seed, the fixture's parameter."""
    library.sim_reset(getattr(request, "param", 0))
    card = Card(library, None, tmp_path)
    card.use(monkeypatch)
    yield card
    card.trt.callbacks.clear()
    gc.collect()
    alive = (card.trt.Context.alive, card.trt.Engine.alive, card.trt.Runtime.alive)
    assert (library.sim_live(), alive) == (0, (0, 0, 0)), "something of the card was not given back"
    card.forget()


several_orders = pytest.mark.parametrize("card", [1, 2, 3, 4], indirect=True)


def info_of(onnx: Path, **changes: Any) -> RunnerInfo:
    return replace(read_graph(onnx).info("tiny", "tensorrt", "fp32"), **changes)


def on_card(card: Card, onnx: Path, profiles: Any = (LANDSCAPE, PORTRAIT), **changes: Any) -> CudaRunner:
    plan, decode = card.folder / "model.plan", changes.get("decode")
    write_plan(plan, onnx, list(profiles), decode)
    changes = {"max_batch": max((largest[0] for _, largest in profiles), default=None), **changes}
    return CudaRunner(info_of(onnx, **changes), Opening(plan, "tensorrt", lambda: card.trt, decode=decode))


def on_host(onnx: Path) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(onnx, info_of(onnx), RunOptions())


def draw(count: int, height: int = 64, width: int = 96, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def assert_same(found: list[People], expected: list[People]) -> None:
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert any(len(one) for one in expected), "nobody was found: nothing is compared"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.tags, other.tags)


@pytest.mark.parametrize(
    "changes", [{}, {"flip": False}, {"refine": False}, {"project": False, "adjust": False}, {"max_output": 3}], ids=str
)
def test_the_card_finds_the_people_of_the_host(card: Card, tiny_onnx: Path, changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        for count in (1, 3):  # with the mirrored images: one run of two, and two runs of three
            assert_same(runner.people(draw(count), config), host.people(draw(count), config))


def test_people_on_a_grid_of_another_size(card: Card, tiny_onnx: Path) -> None:
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        for size in ((50, 70), (200, 131)):
            assert_same(runner.people(draw(2), CONFIG, size=size), host.people(draw(2), CONFIG, size=size))


def test_the_engine_runs_the_mirrored_images_itself(card: Card, tiny_onnx_flip: Path) -> None:
    with on_host(tiny_onnx_flip) as host, on_card(card, tiny_onnx_flip) as runner:
        assert_same(runner.people(draw(2), CONFIG), host.people(draw(2), CONFIG))
        without = CONFIG.model_copy(update={"flip": False})
        assert_same(runner.people(draw(2), without), host.people(draw(2), without))
        assert card.trt.runs == 2


def test_a_fixed_batch_of_normalised_images(card: Card, tiny_onnx_fixed: Path) -> None:
    with on_host(tiny_onnx_fixed) as host, on_card(card, tiny_onnx_fixed, profiles=(), max_batch=2) as runner:
        for count in (1, 2):
            assert_same(runner.people(draw(count), CONFIG), host.people(draw(count), CONFIG))
        with pytest.raises(InputError, match="normalised"):
            runner.people_in_photos(list(draw(1)))


def test_heads_and_several_scales_come_to_the_host(card: Card, tiny_onnx: Path) -> None:
    scales = [(1.0, draw(1)), (2.0, draw(1, 128, 192))]
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx, [[[1, 64, 64, 3], [2, 128, 192, 3]]]) as runner:
        for (name, found), (_, expected) in zip(
            runner.heads(draw(2)).named(), host.heads(draw(2)).named(), strict=True
        ):
            np.testing.assert_array_equal(found, expected, err_msg=name)
        assert_same(runner.people(scales, CONFIG), host.people(scales, CONFIG))
        assert_same(runner.people(draw(1), CONFIG, decoder="reference"), host.people(draw(1), CONFIG))


def test_people_that_an_engine_with_the_plugin_returns(card: Card, tiny_onnx_flip: Path) -> None:
    with (
        on_host(tiny_onnx_flip) as host,
        on_card(card, tiny_onnx_flip, outputs="people", decode=CONFIG) as runner,
    ):
        for count in (1, 3):
            assert_same(runner.people(draw(count), CONFIG), host.people(draw(count), CONFIG))
        assert card.trt.runs == 2
        few = CONFIG.model_copy(update={"max_output": 2})
        assert_same(runner.people(draw(1), few), host.people(draw(1), few))
        with pytest.raises(InputError, match="flip True"):
            runner.people(draw(1), CONFIG.model_copy(update={"flip": False}))
        with pytest.raises(InputError, match="its heads never leave"):
            runner.heads(draw(1))
        with pytest.raises(InputError, match="one scale at a time"):
            runner.people([(1.0, draw(1)), (0.5, draw(1))], CONFIG)
        with pytest.raises(InputError, match="in pixels of its input"):
            runner.people(draw(1), CONFIG, size=(50, 50))
        with pytest.raises(InputError, match="the decoder reference was asked for"):
            runner.people(draw(1), CONFIG, decoder="reference")


@several_orders
def test_batches_in_flight_keep_their_own_people(card: Card, tiny_onnx: Path) -> None:
    shapes = [(1, 64, 96), (3, 96, 64), (2, 64, 256), (3, 64, 64), (1, 256, 64), (2, 64, 96), (3, 64, 128)]
    batches = [draw(*shape, seed=number) for number, shape in enumerate(shapes)]
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        futures = []
        for batch in batches:
            futures.append(runner.submit(batch.copy(), CONFIG))
        for batch, future in zip(batches, futures, strict=True):
            assert_same(future.result(timeout=60), host.people(batch, CONFIG))


def test_starting_a_batch_waits_for_nothing(card: Card, tiny_onnx: Path) -> None:
    from hhrnet_deploy.targets.cuda_facts import Batch
    from hhrnet_deploy.targets.cuda_people import heads_of
    from hhrnet_deploy.targets.cuda_pipeline import Pixels

    with on_card(card, tiny_onnx) as runner:
        pipeline = runner.session.pipeline
        before = card.sim.sim_waits()
        tickets = [pipeline.start(Batch(2, (96, 64)), Pixels(draw(2, seed=seed))) for seed in (1, 2)]
        assert card.sim.sim_waits() == before
        for ticket in tickets:
            pipeline.finish(ticket, heads_of)
        assert card.sim.sim_waits() == before + 2


@several_orders
def test_people_from_several_threads(card: Card, tiny_onnx: Path) -> None:
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        expected = [host.people(draw(1, seed=seed), CONFIG) for seed in range(4)]
        found: dict[int, list[People]] = {}

        def work(seed: int) -> None:
            for _ in range(2):
                found[seed] = runner.people(draw(1, seed=seed), CONFIG)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, people in found.items():
            assert_same(people, expected[seed])
        assert len(found) == 4


def test_photos_and_batches_of_two_threads_do_not_wait_for_each_other(card: Card, tiny_onnx: Path) -> None:
    rng = np.random.default_rng(6)
    photos = [rng.integers(0, 256, (40 + 9 * number, 60, 3), np.uint8) for number in range(5)]
    config = InferenceConfig(short_side=64, decode=CONFIG)
    with on_card(card, tiny_onnx) as runner:
        alone = runner.people_in_photos(photos, config)
        expected = runner.people(draw(1), CONFIG)
        futures: list[Any] = []
        thread = threading.Thread(target=lambda: futures.extend(runner.submit(draw(1), CONFIG) for _ in range(6)))
        thread.start()
        assert_same(runner.people_in_photos(photos, config), alone)
        thread.join(timeout=120)
        for future in futures:
            assert_same(future.result(timeout=120), expected)
        assert len(futures) == 6


class OnCard:
    """An array on the simulated card, as other libraries show theirs."""

    def __init__(self, card: Card, array: Any, **fields: Any) -> None:
        self._runner_array = array
        self.address = _upload(card, array)
        self.fields = fields

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        shape = self._runner_array.shape
        return {"shape": shape, "typestr": "|u1", "data": (self.address, False), "version": 3, **self.fields}


def _upload(card: Card, array: Any) -> int:
    from hhrnet_deploy.targets.cuda_driver import open_driver

    driver = open_driver()
    with driver.current("testing"):
        block = driver.allocate(array.nbytes)
        driver.cuda.memcpy_htod(int(block), np.ascontiguousarray(array))
    card.blocks = [*getattr(card, "blocks", []), block]  # type: ignore[attr-defined]
    return int(block)


def _free_uploads(card: Card) -> None:
    from hhrnet_deploy.targets.cuda_driver import open_driver

    with open_driver().current("testing"):
        for block in card.blocks:  # type: ignore[attr-defined]
            block.free()


def test_images_that_are_on_the_card(card: Card, tiny_onnx: Path) -> None:
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        images = OnCard(card, draw(2), stream=1)
        assert_same(runner.people(images, CONFIG), host.people(draw(2), CONFIG))
        with pytest.raises(InputError, match="dense"):
            runner.people(OnCard(card, draw(2), strides=(1, 2, 3, 4)), CONFIG)
        with pytest.raises(InputError, match="multiples of 32"):
            runner.people(OnCard(card, draw(2, 64, 90)), CONFIG)
        _free_uploads(card)


def test_a_submitted_batch_waits_for_the_stream_of_the_thread_that_submits(card: Card, tiny_onnx: Path) -> None:
    class Asked(OnCard):
        threads: ClassVar[list[int]] = []

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            self.threads.append(threading.get_ident())
            return super().__cuda_array_interface__

    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        future = runner.submit(Asked(card, draw(2), stream=1), CONFIG)
        assert_same(future.result(timeout=60), host.people(draw(2), CONFIG))
        assert set(Asked.threads) == {threading.get_ident()}
        _free_uploads(card)


def test_the_card_warps_photos_of_any_sizes(card: Card, tiny_onnx: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = [(40, 60), (100, 75), (33, 47), (41, 60), (64, 64), (75, 100), (200, 90)]
    photos = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    config = InferenceConfig(short_side=64, decode=CONFIG)
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        expected = [people for _, people in predict_photos(host, enumerate(photos), config)]
        assert_same(runner.people_in_photos(photos, config), expected)
        mixed = [photos[0], OnCard(card, photos[1]), photos[2], OnCard(card, photos[3])]
        assert_same(runner.people_in_photos(mixed, config), expected[:4])
        assert runner.people_in_photos([], config) == []
        with pytest.raises(InputError, match="uint8"):
            runner.people_in_photos([photos[0].astype(np.float32)], config)
        _free_uploads(card)


def test_photos_through_the_stream_of_batches(card: Card, tiny_onnx: Path) -> None:
    rng = np.random.default_rng(4)
    photos = [rng.integers(0, 256, (rng.integers(40, 90), rng.integers(40, 90), 3), np.uint8) for _ in range(9)]
    config = InferenceConfig(short_side=64, decode=CONFIG)
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        expected = [people for _, people in predict_photos(host, enumerate(photos), config)]
        found = [people for _, people in predict_photos(runner, enumerate(photos), config, batch=3)]
        assert_same(found, expected)


def test_a_captured_batch_runs_again_and_again(card: Card, tiny_onnx: Path) -> None:
    with on_host(tiny_onnx) as host, on_card(card, tiny_onnx) as runner:
        with GraphRun(runner, count=2, size=(96, 64), config=CONFIG) as graph:
            for seed in range(3):
                graph.images[:] = draw(2, seed=seed)
                graph.launch()
                assert_same(graph.people(), host.people(draw(2, seed=seed), CONFIG))
        assert_same(runner.people(draw(1), CONFIG), host.people(draw(1), CONFIG))


def test_an_engine_that_allocates_while_it_runs_is_not_captured(card: Card, tiny_onnx: Path) -> None:
    with on_card(card, tiny_onnx) as runner:
        card.trt.capturable = False
        with pytest.raises(CudaError, match="cannot be captured for 2 images of 96x64"):
            GraphRun(runner, count=2, size=(96, 64), config=CONFIG).__enter__()
        card.trt.capturable = True
        assert runner.people(draw(1), CONFIG)


def test_nothing_is_launched_into_a_capture_of_another_thread(card: Card, tiny_onnx: Path) -> None:
    with on_card(card, tiny_onnx) as runner, GraphRun(runner, count=1, size=(96, 64), config=CONFIG) as graph:
        graph.images[:] = draw(1)
        thread = threading.Thread(target=graph.launch)
        with runner.session.pipeline.issuing:  # as while a graph is captured
            before = card.trt.runs
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            assert card.trt.runs == before
        thread.join()
        assert_same(graph.people(), runner.people(draw(1), CONFIG))


def test_sizes_outside_the_profiles_are_named(card: Card, tiny_onnx: Path) -> None:
    with on_card(card, tiny_onnx) as runner, pytest.raises(InputError, match=r"512x64 .*takes 1x64x64") as error:
        runner.people(draw(1, 512, 64), CONFIG)
    assert "--shapes" in str(error.value)


def test_no_room_says_what_was_asked_and_what_fits(
    card: Card, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_card(card, tiny_onnx) as runner:
        assert runner.people(draw(1), CONFIG)
        monkeypatch.setenv("SIM_MEMORY", str(card.sim.sim_used() + (2 << 20)))
        with pytest.raises(CudaMemoryError, match=r"4 images of 256x64 .* MiB were asked for, .* are free") as error:
            runner.people(draw(4, 64, 256), CONFIG)
        assert "fit" in str(error.value)
        monkeypatch.delenv("SIM_MEMORY")
        assert runner.people(draw(4, 64, 256), CONFIG)


def test_an_error_of_tensorrt_is_passed_on_and_the_runner_goes_on(card: Card, tiny_onnx: Path) -> None:
    with on_card(card, tiny_onnx) as runner:
        card.trt.refuse_contexts = True
        with pytest.raises(CudaMemoryError, match="create_execution_context failed while preparing"):
            runner.people(draw(1), CONFIG)
        card.trt.refuse_contexts = False
        assert runner.people(draw(1), CONFIG)


def test_a_failure_on_the_card_reaches_the_caller_with_its_name(card: Card, tiny_onnx: Path) -> None:
    with on_card(card, tiny_onnx) as runner:
        outside = OnCard(card, draw(1))
        _free_uploads(card)  # its owner frees it too early
        with pytest.raises(CudaError, match="illegal memory access") as error:
            runner.people(outside, CONFIG)
        assert "make gpu-test" in str(error.value)
        assert "cuEventSynchronize" in str(error.value)
        card.sim.sim_reset(0)


def test_nan_in_a_head_is_an_error(card: Card, tiny_onnx: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(tiny_onnx))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("bias"):
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    broken = tmp_path / "nan.onnx"
    onnx.save(model, str(broken))
    with on_card(card, broken) as runner, pytest.raises(HHRNetError, match="NaN or infinity"):
        runner.people(draw(1), CONFIG)


def test_a_damaged_plan_is_refused(card: Card, tiny_onnx: Path) -> None:
    runner = on_card(card, tiny_onnx)
    (card.folder / "model.plan").write_bytes(b"\0not a plan")
    with pytest.raises(BundleError, match="magic tag does not match"), runner:
        pass
    with pytest.raises(InputError, match="not open"):
        runner.people(draw(1))


def test_compiled_kernels_are_kept_and_stale_ones_replaced(
    card: Card, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = card.use(monkeypatch, rtx=True)
    plan, kept = card.folder / "model.plan", card.folder / "engine.kernels"
    write_plan(plan, tiny_onnx, [LANDSCAPE])

    def run() -> int:
        runner = CudaRunner(
            info_of(tiny_onnx, max_batch=4), Opening(plan, "tensorrt_rtx", lambda: trt, kernel_cache=kept)
        )
        with runner:
            assert runner.people(draw(1), CONFIG)
        trt.callbacks.clear()
        return int(trt.cache_hits)

    assert run() == 0
    assert run() == 1, "the second start reads what the first one wrote"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-3])
    assert run() == 1, "half a file is not handed over"
    assert kept.read_bytes() == whole
    trt.__version__ = "11.5.0"
    assert run() == 1, "another release compiles anew"
    assert kept.read_bytes() != whole


def test_after_an_error_nothing_of_the_card_hangs_on_the_traceback(card: Card, tiny_onnx: Path) -> None:
    def fail() -> None:
        with on_card(card, tiny_onnx) as runner:
            runner.people(draw(1), CONFIG)
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError) as error:
        fail()
    card.trt.callbacks.clear()
    assert card.sim.sim_live() == 0
    assert card.trt.Context.alive == card.trt.Engine.alive == 0
    assert error.value.args == ("the caller's own",)
