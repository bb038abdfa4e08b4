"""Tests that run on a GPU; without one they skip with the reason, or fail where HHRNET_REQUIRE_GPU=1 is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from card import Card

from hhrnet_deploy.targets.cuda_ready import missing_to_run

# The drawn heads of the decoder's own tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "decode"))


def missing(reason: str) -> NoReturn:
    if os.environ.get("HHRNET_REQUIRE_GPU") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def card() -> Iterator[Card]:
    """The card, pycuda and the compiled kernels; no TensorRT."""
    lacking = missing_to_run("pycuda")
    if lacking is not None:
        missing(f"{lacking.fact}: {lacking.remedy}")
    card = Card()
    yield card
    card.close()
