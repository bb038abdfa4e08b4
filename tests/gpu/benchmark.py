"""Times decoding and the whole runtime on the card that is here; prints JSON, then tables for docs/gpu-results.md.

Decoding is timed by CUDA events around a CUDA graph of its kernels, so that the launches by Python are not in it; those
are timed apart. The floor beside it is the bytes that each kernel has to read and write once, over the bandwidth that a
copy on the same card reaches. Needs tests/unit/decode on PYTHONPATH, as `make gpu-test` sets it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from card import Card, Decoding
from card_engines import TARGETS, TorchOnCard, engine_here
from fields import Field, stack
from reporting import machine, table

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.targets.cuda_facts import Batch
from hhrnet_deploy.targets.cuda_graphs import capture
from hhrnet_deploy.targets.cuda_ops import Infer, Launch
from hhrnet_deploy.targets.cuda_pipeline import Contexts, Pixels
from hhrnet_deploy.targets.cuda_runner import CudaRunner

ROUNDS = 200
IN_A_ROW = 20
HEAD_SPREAD = 0.1  # standard deviation; the detection threshold is 0.1
SIDE = 256  # of the fine head of a 512 x 512 input
# One copy of these per kernel that touches them is the least traffic; what is not listed is small.
LARGE = ("coarse", "fine", "coarse_flipped", "fine_flipped", "heat", "tags", "cells")
CROWD = Field(people=20, width=SIDE, height=SIDE, missing=0.1, noise=0.01, tag_spread=60.0)
TIES = Field(people=20, width=SIDE, height=SIDE, missing=0.1, noise=0.0, tag_step=0.5, heat_step=0.25, tag_spread=8.0)


def heads_of(field: Field, images: int) -> Heads:
    """A batch with flipped outputs; four different images, repeated."""
    drawn = [field.draw(seed, flip=True) for seed in range(min(images, 4))]
    return Heads(*stack([drawn[number % len(drawn)] for number in range(images)]))


def timed(card: Card, run: Callable[[], None], stream: Any, rounds: int) -> dict[str, float]:
    """Median and 95th percentile in microseconds, by events."""
    pairs = [(card.driver.event(timing=True), card.driver.event(timing=True)) for _ in range(rounds)]
    for _ in range(10):
        run()
    for first, last in pairs:
        first.record(stream)
        run()
        last.record(stream)
    stream.synchronize()
    micro = [1000 * last.time_since(first) for first, last in pairs]
    return {"p50_us": round(float(np.median(micro)), 2), "p95_us": round(float(np.quantile(micro, 0.95)), 2)}


def bandwidth(card: Card) -> float:
    """Bytes per second, read plus written, of a copy of 1 GiB on the card."""
    size = 1 << 30
    with card.driver.current("measuring bandwidth"):
        source, target = card.driver.allocate(size), card.driver.allocate(size)
        stream = card.pipeline.streams["decode"]
        took = timed(card, lambda: card.driver.copy(int(target), int(source), size, stream), stream, 20)
        source.free()
        target.free()
    return 2 * size / (took["p50_us"] * 1e-6)


def decode_row(card: Card, name: str, heads: Heads, rate: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """Times of one batch of heads that lie on the card."""
    with card.driver.current("timing"), Decoding(card, heads, DecodeConfig()) as decoding:
        decoding.issue()
        decoding.wait()
        people = [len(one) for one in decoding.people()]
        stream = card.pipeline.streams["decode"]
        graph = capture(stream.handle, lambda: decoding.issue(decoding.launches))
        whole = timed(card, lambda: graph.launch(stream.handle), stream, rounds)
        graph.close()
        each = {one.kernel: alone(card, decoding, one, rounds) for one in decoding.launches}
        started = time.perf_counter()
        for _ in range(rounds):
            decoding.issue(decoding.launches)
        launch = (time.perf_counter() - started) / rounds
        stream.synchronize()
        moved = _bytes(decoding)
    return {
        "case": name,
        "images": heads.batch,
        "people_per_image": round(sum(people) / len(people), 1),
        **whole,
        "floor_us": round(1e6 * moved / rate, 2),
        "megabytes": round(moved / 1e6, 2),
        "python_launches_us": round(1e6 * launch, 1),
        "kernels": each,
    }


def alone(card: Card, decoding: Decoding, kernel: Launch, rounds: int) -> float:
    """Median microseconds of one kernel, over many of it in one graph: events around a single one time the host."""
    stream = card.pipeline.streams["decode"]
    graph = capture(stream.handle, lambda: decoding.issue([kernel] * IN_A_ROW))
    took = timed(card, lambda: graph.launch(stream.handle), stream, max(1, rounds // IN_A_ROW))
    graph.close()
    return round(took["p50_us"] / IN_A_ROW, 2)


def _bytes(decoding: Decoding) -> int:
    total = 0
    for op in decoding.launches:
        assert isinstance(op, Launch)
        for ref in (*op.reads, *op.writes):
            if ref.array in LARGE:
                total += decoding.plan.arrays[ref.array].nbytes
    return total


def throughput_row(runner: CudaRunner, batch: int, size: tuple[int, int], seconds: float = 3.0) -> dict[str, Any]:
    """Images per second from pixels in host memory to people, beside the network alone on the same stream."""
    width, height = size
    images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    config = DecodeConfig()
    people = [len(one) for _ in range(3) for one in runner.people(images, config)]
    waiting: list[Any] = []
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        waiting.append(runner.submit(images, config))
        if len(waiting) > 3:
            waiting.pop(0).result()
            count += batch
    for future in waiting:
        future.result()
        count += batch
    rate = count / (time.perf_counter() - started)
    alone = _network_alone(runner, images, config, seconds)
    return {
        "engine": runner.info.target,
        "precision": runner.info.precision,
        "batch": batch,
        "size": f"{width}x{height}",
        "images_per_second": round(rate, 1),
        "network_only": round(alone, 1),
        "ratio": round(rate / alone, 3),
        "people_per_image": round(sum(people) / len(people), 1),
    }


def _network_alone(runner: CudaRunner, images: Any, config: DecodeConfig, seconds: float) -> float:
    """The same runs of the engine, mirrored images included, and nothing else."""
    pipeline = runner.session.pipeline
    size = (images.shape[2], images.shape[1])
    batch = Batch(len(images), size, "host", size, runner.settings(config))
    ticket = pipeline.start(batch, Pixels(images))
    slot, plan = pipeline._slots[ticket.number], ticket.plan
    pipeline.finish(ticket, lambda _: None)
    infers = [op for op in plan.ops if isinstance(op, Infer)]
    with pipeline.driver.current("timing the network"):
        stream = pipeline.streams["network"]
        runs = Contexts(pipeline.engine, pipeline.contexts, stream.handle)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for _ in range(4):
                pipeline.issue(infers, plan, slot, {}, runs)
            stream.synchronize()
            count += 4 * len(images)
        return count / (time.perf_counter() - started)


def lively(preset: str) -> Any:
    """A fresh network whose heads have people in them; as it is initialised officially, they are 0 in float16."""
    import torch

    from hhrnet_deploy.model.checkpoint import load_model

    torch.manual_seed(0)
    network = load_model(preset)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 0.3)
    network.eval()
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        for number, head in enumerate(network.final_layers):  # coarse first: fine reads it
            head.weight.mul_(HEAD_SPREAD / network(pixels)[number].std())
    return network


def runners(folder: Path, preset: str, largest: int) -> Iterator[tuple[str, Any]]:
    """(name, runner or why there is none) of PyTorch and of every engine library, float16."""
    from hhrnet_deploy.model.checkpoint import save_weights
    from hhrnet_deploy.targets.opening import open_engine

    network = lively(preset)
    weights = folder / "weights.safetensors"
    save_weights(network, weights)
    yield "torch-fp16", TorchOnCard(network, largest=2 * largest, half=True, name="torch-fp16")
    for target in TARGETS:
        try:
            built = engine_here(
                target, folder / target, precision="fp16", checkpoint=str(weights), max_batch=2 * largest
            )
            yield target, open_engine(built) if isinstance(built, Path) else built
        except HHRNetError as error:
            yield target, str(error)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="w32_512", help="network of the throughput runs, freshly initialised")
    parser.add_argument("--batches", default="8,16,32", help="of the throughput runs; empty for decoding alone")
    options = parser.parse_args()
    card = Card()
    rate = bandwidth(card)
    cases = [
        ("20 people, 1 image", heads_of(CROWD, 1)),
        ("20 people, 32 images", heads_of(CROWD, 32)),
        ("all ties, 1 image", heads_of(TIES, 1)),
        ("all ties, 32 images", heads_of(TIES, 32)),
        ("nobody, 1 image", heads_of(Field(people=0, width=SIDE, height=SIDE), 1)),
    ]
    decode = [decode_row(card, name, heads, rate) for name, heads in cases]
    card.close()
    bandwidth_gb = round(rate / 1e9, 1)
    # At once: what comes after builds engines, and may end in a way that prints nothing more.
    print(f"{machine()}\n\nCopy on the card: {bandwidth_gb} GB/s\n\n{table(decode)}\n", flush=True)
    batches = [int(text) for text in options.batches.split(",") if text]
    rows, refused = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, engine in runners(Path(folder), options.preset, max(batches)) if batches else ():
            if isinstance(engine, str):
                refused[name] = engine
                print(f"{name}: {engine}", flush=True)
                continue
            with engine as runner:
                for batch in batches:
                    try:
                        rows.append(throughput_row(runner, batch, (512, 512)))
                        print(json.dumps(rows[-1]), flush=True)
                    except (HHRNetError, RuntimeError) as error:  # PyTorch's out of memory is a RuntimeError
                        refused[f"{name}, batch {batch}"] = str(error)
    document = {"machine": machine(), "copy_gb_per_s": bandwidth_gb, "decode": decode, "throughput": rows}
    print(json.dumps(document | {"engines_refused": refused}, indent=1))
    if batches:
        print(table(rows) if rows else f"no engine ran: {refused}")


if __name__ == "__main__":
    main()
