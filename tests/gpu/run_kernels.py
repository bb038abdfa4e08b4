"""A few batches through every kernel: ``compute-sanitizer --tool memcheck python run_kernels.py``.

Needs tests/unit/decode on PYTHONPATH. Exits with 0 when the people and pixels are those of the host.
"""

from __future__ import annotations

import sys

import numpy as np
import test_gpu_1_kernels as kernels
import test_gpu_3_warp as warps
from card import Card


def main(fields: int) -> None:
    card = Card()
    people = sum(kernels.check(card, seed) for seed in range(fields))
    for seed in range(3):
        warps.check(card, np.random.default_rng(seed))
    card.close()
    assert people > 0
    print(f"{fields} fields, {people} people, every kernel as on the host")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
