"""Time the compiled decoder and, beside it, the official post-processing; print one JSON document.

    HHRNET_OFFICIAL=... python measure_decode.py PAIRS

Both decode the same heads in turn, so that whatever else the machine does slows both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from fields import Field
from official import Official

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import decode_heads, native
from hhrnet_deploy.decode.request import make_request

MODES = {
    "1_person_512x512": (Field(people=1, width=256, height=256), False),
    "5_people_512x512": (Field(people=5, width=256, height=256, noise=0.003, tag_spread=20), False),
    "20_people_512x512": (Field(people=20, width=256, height=256, noise=0.003, tag_spread=40), False),
    "20_people_704x512_flip": (Field(people=20, width=352, height=256, noise=0.003, tag_spread=40), True),
}
WORST = {
    "all_ties_30": (Field(people=30, width=256, height=256, tag_step=1, tag_spread=2, heat_step=0.5), 30),
    "all_ties_100": (Field(people=100, width=256, height=256, tag_step=1, tag_spread=2, heat_step=0.5), 100),
    "noise_everywhere": (Field(people=0, width=256, height=256, noise=1.0), 30),
}


def seconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def read_bandwidth() -> float:
    """Bytes per second that one thread reads from memory: the best of five sums over 256 MB."""
    block = np.ones(64 << 20, np.float32)
    return block.nbytes / min(seconds(block.max) for _ in range(5))


def measure_pairs(heads: tuple[np.ndarray, ...], official: Official, pairs: int) -> dict[str, float]:
    """Medians of both and of their ratio, over alternating pairs."""
    size = (2 * heads[1].shape[3], 2 * heads[1].shape[2])
    config = DecodeConfig()
    ours, theirs = [], []
    decode_heads(heads)
    for _ in range(pairs):
        theirs.append(seconds(lambda: official.decode([(1.0, heads)], size, config)))
        ours.append(seconds(lambda: decode_heads(heads)))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {
        "native_ms": 1e3 * statistics.median(ours),
        "official_ms": 1e3 * statistics.median(theirs),
        "times_faster": statistics.median(ratios),
        "times_faster_least": min(ratios),
    }


def measure_mode(field: Field, flip: bool, official: Official, pairs: int, bandwidth: float) -> dict[str, float]:
    """One row of the table."""
    heads = field.draw(1, flip=flip)
    size = sum(head.nbytes for head in heads)
    request = make_request(heads, None, DecodeConfig())
    return {
        "people": len(decode_heads(heads)[0]),
        **measure_pairs(heads, official, pairs),
        "heads_mb": size / 1e6,
        "floor_ms": 1e3 * size / bandwidth,
        "workspace_mb": native.workspace_bytes(request) / 1e6,
    }


def measure_worst(field: Field, limit: int) -> dict[str, float]:
    """A case that nothing prunes."""
    heads, config = field.draw(1), DecodeConfig(max_people=limit)
    people = len(decode_heads(heads, config=config)[0])
    return {
        "people": people,
        "native_ms": 1e3 * min(seconds(lambda: decode_heads(heads, config=config)) for _ in range(5)),
    }


def main(pairs: int) -> None:
    """Measure and print."""
    official, bandwidth = Official(os.environ["HHRNET_OFFICIAL"]), read_bandwidth()
    document = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "read_gb_per_s": bandwidth / 1e9},
        "variant": native.load_native().variants()[0],
        "pairs": pairs,
        "modes": {name: measure_mode(*mode, official, pairs, bandwidth) for name, mode in MODES.items()},
        "worst": {name: measure_worst(*worst) for name, worst in WORST.items()},
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]))
