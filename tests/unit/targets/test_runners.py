from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.targets.opening import open_model
from hhrnet_deploy.targets.registry import find_target
from hhrnet_deploy.targets.runner import Runner, RunnerInfo
from hhrnet_deploy.targets.target import BuildSettings, RunOptions
from hhrnet_deploy.targets.torch import TorchRunner, exact_convolutions


def images(n: int, h: int = 64, w: int = 96, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)


def assert_close(got: Heads, expected: Heads, limit: float = 1e-4) -> None:
    assert [name for name, _ in got.named()] == [name for name, _ in expected.named()]
    for (_, value), (_, wanted) in zip(got.named(), expected.named(), strict=True):
        assert value.shape == wanted.shape
        assert np.abs(value - wanted).max() < limit * wanted.std()


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def built(target: str, onnx_file: Path, folder: Path, precision: str = "fp32", **options: Any) -> Runner:
    from hhrnet_deploy.targets.graph import read_graph

    graph, library = read_graph(onnx_file), find_target(target)
    folder.mkdir(exist_ok=True)
    made = library.build(graph, folder, precision, BuildSettings())
    return library.runner(folder, graph.info("engine", target, precision), dict(made.hints), RunOptions(**options))


@pytest.fixture
def reference(tiny_model: Any) -> Any:
    with TorchRunner(tiny_model, tiny_model.preset, name="reference") as runner:
        yield runner


def test_engines_return_the_modules_heads(target: str, tiny_onnx: Path, reference: Runner, tmp_path: Path) -> None:
    with built(target, tiny_onnx, tmp_path) as engine:
        for n, h, w in ((1, 64, 96), (2, 96, 64), (3, 32, 160)):
            assert_close(engine.heads(images(n, h, w)), reference.heads(images(n, h, w)))


def test_heads_are_not_overwritten_by_the_next_call(target: str, tiny_onnx: Path, tmp_path: Path) -> None:
    with built(target, tiny_onnx, tmp_path) as engine:
        first = engine.heads(images(1))
        kept = first.fine.copy()
        engine.heads(images(1, seed=2))
        assert (first.fine == kept).all()


def test_flip_inside_the_engine_equals_flip_by_the_runner(
    target: str, tiny_onnx: Path, tiny_onnx_flip: Path, reference: Runner, tmp_path: Path
) -> None:
    expected = reference.heads_with_flip(images(2))
    with built(target, tiny_onnx_flip, tmp_path / "inside") as inside:
        assert inside.info.has_flip
        assert_close(inside.heads(images(2)), expected)
        assert not inside.heads_with_flip(images(2), flip=False).has_flip
    with built(target, tiny_onnx, tmp_path / "outside") as outside:
        assert not outside.heads(images(2)).has_flip
        assert_close(outside.heads_with_flip(images(2)), expected)


def test_a_fixed_float_engine_fills_up_its_batch(
    target: str, tiny_onnx_fixed: Path, reference: Runner, tmp_path: Path
) -> None:
    with built(target, tiny_onnx_fixed, tmp_path) as engine:
        assert (engine.info.fixed_size, engine.info.max_batch, engine.info.input) == ((96, 64), 2, "float")
        assert_close(engine.heads(images(1)), reference.heads_with_flip(images(1)))
        with pytest.raises(InputError, match="at most 2"):
            engine.heads(images(3))
        with pytest.raises(InputError, match="96x64"):
            engine.heads(images(2, 64, 64))
        with pytest.raises(InputError, match="several scales"):
            engine.people([(1.0, images(1)), (2.0, images(1))])


def test_openvino_shape_cache_is_bounded_and_keeps_the_last_used(
    tiny_onnx: Path, reference: Runner, tmp_path: Path
) -> None:
    with built("openvino", tiny_onnx, tmp_path, shape_cache=2) as engine:
        for side in (64, 96, 64, 128, 64):
            assert_close(engine.heads(images(1, 64, side)), reference.heads(images(1, 64, side)))
        assert list(engine._by_shape) == [(1, 64, 128, 3), (1, 64, 64, 3)]
    assert not engine._by_shape


def test_openvino_states_and_checks_its_precision(tiny_onnx: Path, tmp_path: Path) -> None:
    engine = built("openvino", tiny_onnx, tmp_path)
    with engine:
        compiled = engine._dynamic.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"

    class WithoutBf16:
        """What a processor that lacks bf16 answers."""

        def get_property(self, _: str) -> Any:
            return SimpleNamespace(to_string=lambda: "f32")

    engine._hints["INFERENCE_PRECISION_HINT"] = "bf16"
    with pytest.raises(InputError, match="bf16 arithmetic, OpenVINO runs it in f32"):
        engine._check_precision(WithoutBf16())


def test_openvino_keeps_float32_weights(tiny_onnx: Path, tmp_path: Path) -> None:
    built("openvino", tiny_onnx, tmp_path)
    assert 'element_type="f16"' not in (tmp_path / "model.xml").read_text()


@pytest.fixture
def plain(tiny_model: Any) -> Runner:
    return TorchRunner(tiny_model, tiny_model.preset, name="plain")


def test_a_runner_works_only_while_it_is_open(plain: Runner) -> None:
    for use in (plain.heads, plain.people, plain.submit):
        with pytest.raises(InputError, match="not open"):
            use(images(1))
    with plain:
        plain.heads(images(1))
        with pytest.raises(InputError, match="already open"), plain:
            pass
    with pytest.raises(InputError, match="not open"):
        plain.heads(images(1))
    with plain:
        plain.heads(images(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), "uint8"),
        (np.zeros((64, 64, 3), np.uint8), "N, H, W, 3"),
        (np.zeros((1, 3, 64, 64), np.uint8), "N, H, W, 3"),
        (np.zeros((0, 64, 64, 3), np.uint8), "N, H, W, 3"),
        (np.zeros((1, 64, 60, 3), np.uint8), "multiples of 32"),
        (None, "NoneType"),
    ],
)
def test_wrong_images_are_named(plain: Runner, wrong: Any, message: str) -> None:
    with plain, pytest.raises(InputError, match=message):
        plain.heads(wrong)


def test_dlpack_and_strided_images_are_accepted(plain: Runner) -> None:
    pixels = images(2)
    with plain:
        expected = plain.heads(pixels)
        assert_close(plain.heads(torch.from_numpy(pixels)), expected, 1e-6)
        mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
        assert_close(plain.heads(mirrored[:, :, ::-1]), expected, 1e-6)


def test_non_finite_heads_are_an_error(plain: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(batch: np.ndarray) -> Heads:
        fine = np.zeros((len(batch), 17, 32, 48), np.float32)
        fine[0, 3, 4, 5] = np.nan
        return Heads(np.zeros((len(batch), 34, 16, 24), np.float32), fine)

    monkeypatch.setattr(plain, "_run", broken)
    with plain, pytest.raises(HHRNetError, match="NaN or infinity in fine"):
        plain.people(images(1))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 262. TiB for an array with shape (6000003, 6000003) and data type float64"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257:\nFailed to allocate 111738880 bytes of memory"),
        Exception("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 1787822080"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_full_memory_is_named_whichever_library_finds_it(
    plain: Runner, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(_batch: np.ndarray) -> Heads:
        raise error

    monkeypatch.setattr(plain, "_run", full)
    with plain, pytest.raises(HHRNetError, match=r"no room for 2 image\(s\) of 96x64") as caught:
        plain.people(images(2))
    assert caught.value.__cause__ is error


def test_other_errors_of_a_library_stay_what_they_are(plain: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_batch: np.ndarray) -> Heads:
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr(plain, "_run", broken)
    with plain, pytest.raises(RuntimeError, match="a shape does not fit"):
        plain.people(images(1))


def test_people_equal_the_decoded_heads_with_and_without_flip(plain: Runner) -> None:
    from hhrnet_deploy.decode import decode_heads

    with plain:
        for flip in (True, False):
            config = DecodeConfig(flip=flip, detection_threshold=1.0, skeleton=COCO)
            got = plain.people(images(2), config, decoder="reference")
            expected = decode_heads(
                plain.heads_with_flip(images(2), flip), size=(96, 64), config=config, decoder="reference"
            )
            assert sum(map(len, got)) > 0
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one.keypoints, other.keypoints)
                assert one.tags.shape[2] == (2 if flip else 1)


def test_several_scales_land_on_the_grid_of_scale_one(plain: Runner) -> None:
    with plain:
        config = DecodeConfig(detection_threshold=1.0)
        people = plain.people([(2.0, images(1, 128, 192)), (1.0, images(1))], config, decoder="reference")
        assert len(people) == 1
        assert len(people[0]) > 0
        assert people[0].keypoints[..., 0].max() <= 97
        with pytest.raises(InputError, match="empty"):
            plain.people([])


def test_submit_runs_in_order_in_one_thread_and_carries_errors(plain: Runner) -> None:
    config = DecodeConfig(flip=False, detection_threshold=1.0)
    with plain:
        expected = plain.people(images(1), config, decoder="reference")
        futures = [plain.submit(images(1), config, decoder="reference") for _ in range(3)]
        for future in futures:
            np.testing.assert_array_equal(future.result(60)[0].keypoints, expected[0].keypoints)
        with pytest.raises(InputError, match="uint8"):
            plain.submit(np.zeros((1, 64, 64, 3))).result(60)


class _Slow(Runner):
    """Holds every batch until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(RunnerInfo("slow", "torch", "fp32", "tiny", COCO, 64))
        self.go = threading.Event()

    def _open(self) -> None: ...

    def _close(self) -> None: ...

    def _run(self, batch: np.ndarray) -> Heads:
        assert self.go.wait(60)
        return Heads(np.zeros((1, 34, 16, 16), np.float32), np.zeros((1, 17, 32, 32), np.float32))


def test_submit_blocks_instead_of_queueing_without_limit() -> None:
    done: list[int] = []
    with _Slow() as runner:

        def feed() -> None:
            for number in range(20):
                runner.submit(images(1, 64, 64), DecodeConfig(flip=False), decoder="reference")
                done.append(number)

        feeder = threading.Thread(target=feed)
        feeder.start()
        feeder.join(0.5)
        assert feeder.is_alive()
        assert len(done) < 10
        runner.go.set()
        feeder.join(60)
        assert len(done) == 20


def test_pytorch_runs_exact_convolutions_with_cudnn_on() -> None:
    from torch.backends import cudnn

    def flags() -> tuple[bool, ...]:
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before, entered, leave = flags(), threading.Event(), threading.Event()

    def other() -> None:
        with exact_convolutions:
            entered.set()
            leave.wait(60)

    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        thread = threading.Thread(target=other)
        with exact_convolutions:
            thread.start()
            assert entered.wait(60)
            assert flags() == (True, True, True, False)
        assert flags() == (True, True, True, False), "another thread is still inside"
        leave.set()
        thread.join()
        assert flags() == (True, True, True, True)
    assert flags() == before


def test_the_torch_runner_restores_training_mode_and_memory_format(tiny_model: Any) -> None:
    import copy

    import torch

    network = copy.deepcopy(tiny_model).train()
    with TorchRunner(network, tiny_model.preset):
        assert not network.training
    assert network.training
    assert network.conv1.weight.is_contiguous()
    network.to(memory_format=torch.channels_last)
    with TorchRunner(network, tiny_model.preset):
        pass
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_open_model_finds_out_what_it_was_given(
    tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path, reference: Runner
) -> None:
    for what, kind in ((tiny_checkpoint, "checkpoint"), (tiny_onnx, "engine")):
        with open_model(what) as runner:
            assert (runner.info.kind, runner.info.preset, runner.info.name) == (kind, "tiny_coco", what.name)
            assert_close(runner.heads(images(1)), reference.heads(images(1)))
    with pytest.raises(InputError, match=r"no engine, ONNX file or checkpoint"):
        open_model(tmp_path / "nothing")


def test_a_foreign_onnx_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "foreign", values[:1], values[1:])
    onnx.save(helper.make_model(graph), str(tmp_path / "foreign.onnx"))
    with pytest.raises(InputError, match="hhrnet export"):
        open_model(tmp_path / "foreign.onnx")
    (tmp_path / "page.onnx").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="not a readable ONNX"):
        open_model(tmp_path / "page.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="not a readable ONNX"):
        open_model(tmp_path / "empty.onnx")


def test_what_was_submitted_is_finished_before_the_runner_closes() -> None:
    runner = _Slow()
    with runner:
        config = DecodeConfig(detection_threshold=1.0)
        futures = [runner.submit(images(1, 64, 64), config, decoder="reference") for _ in range(3)]
        runner.go.set()
    assert [len(future.result(0)) for future in futures] == [1, 1, 1]
