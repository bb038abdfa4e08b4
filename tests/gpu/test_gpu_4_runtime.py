"""The runtime on a card: with TensorRT and TensorRT-RTX where the card takes them, and with PyTorch in their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from card import Card, warped_as_opencv_4
from card_engines import TARGETS, TorchOnCard, engine_here
from conftest import missing

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.decode import decode_heads
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.cuda_graph_run import GraphRun
from hhrnet_deploy.targets.cuda_runner import CudaRunner
from hhrnet_deploy.targets.opening import open_engine
from hhrnet_deploy.targets.photos import predict_photos

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    from hhrnet_deploy.data.images import read_image
    from hhrnet_deploy.data.synth import synthesize

    root = tmp_path_factory.mktemp("drawn") / "set"
    synthesize(root, images=8, seed=5)
    return [read_image(path) for path in sorted((root / "images" / "val2017").iterdir())]


@pytest.fixture(scope="module", params=["torch", *TARGETS])
def runner(request: Any, card: Card, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaRunner]:
    if request.param == "torch":
        from hhrnet_deploy.model.checkpoint import load_model

        made: Any = TorchOnCard(load_model(None, "default"))
    else:
        bundle = engine_here(request.param, tmp_path_factory.mktemp("engines") / request.param)
        if isinstance(bundle, str):
            pytest.skip(f"this card is not for {request.param}: {bundle}")
        made = open_engine(bundle)
    with made as opened:
        yield opened


def warped(photos: list[Any], runner: CudaRunner) -> list[Any]:
    from hhrnet_deploy.targets.photos import plan_photo

    config = InferenceConfig(short_side=runner.info.short_side)
    return [plan_photo(config, (one.shape[1], one.shape[0])).warps[0][1].apply(one)[None] for one in photos]


def assert_same(found: list[People], expected: list[People]) -> None:
    assert [len(one) for one in found] == [len(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.tags, other.tags)


def test_people_are_those_of_its_own_heads(runner: CudaRunner, photos: list[Any]) -> None:
    """The same engine's heads, decoded on the host: no tolerance."""
    config = DecodeConfig(flip=False)
    found = 0
    for images in warped(photos, runner):
        expected = decode_heads(runner.heads(images).without_flip(), config=config)
        assert_same(runner.people(images, config), expected)
        found += len(expected[0])
    assert found > 0


def test_the_flip_test_and_batches_in_flight(runner: CudaRunner, photos: list[Any]) -> None:
    inputs = warped(photos, runner) * 3
    config = DecodeConfig()
    alone = [runner.people(images, config) for images in inputs]
    futures = [runner.submit(images, config) for images in inputs]
    for future, expected in zip(futures, alone, strict=True):
        assert_same(future.result(timeout=120), expected)


def test_the_card_warps_photos(runner: CudaRunner, photos: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Warp, "apply", warped_as_opencv_4)
    config = InferenceConfig(short_side=runner.info.short_side)
    expected = [people for _, people in predict_photos(runner, enumerate(photos), config)]
    assert_same(runner.people_in_photos(photos[:1], config), expected[:1])
    assert len(runner.people_in_photos(photos, config)) == len(photos)


def test_tensors_of_pytorch_stay_on_the_card(runner: CudaRunner, photos: list[Any]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        missing("PyTorch has no CUDA")
    images = warped(photos, runner)[0]
    tensor = torch.from_numpy(images).cuda()
    assert_same(runner.people(tensor), runner.people(images))
    config = InferenceConfig(short_side=runner.info.short_side)
    on_card = runner.people_in_photos([torch.from_numpy(photos[0]).cuda()], config)
    assert_same(on_card, runner.people_in_photos(photos[:1], config))


def test_threads_and_pytorch_beside_it(runner: CudaRunner, photos: list[Any]) -> None:
    torch = pytest.importorskip("torch")
    inputs = warped(photos, runner)[:4]
    expected = [runner.people(images) for images in inputs]
    found: dict[int, list[People]] = {}

    def work(number: int) -> None:
        square = torch.ones(256, 256, device="cuda")
        for _ in range(5):
            square = square @ square / 256
            found[number] = runner.people(inputs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, people in found.items():
        assert_same(people, expected[number])
    assert len(found) == len(inputs)


def test_a_captured_graph(runner: CudaRunner, photos: list[Any]) -> None:
    if runner.info.target == "torch-cuda":
        pytest.skip("PyTorch's allocator is not for graphs that it does not capture itself")
    inputs = warped(photos, runner)
    size = (inputs[0].shape[2], inputs[0].shape[1])
    config = DecodeConfig()
    with GraphRun(runner, count=1, size=size, config=config) as graph:
        for images in [one for one in inputs if one.shape == inputs[0].shape]:
            graph.images[:] = images
            graph.launch()
            assert_same(graph.people(), runner.people(images, config))
