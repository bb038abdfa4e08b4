"""The block network, measured, and photos for calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantize_blocks import figures, network_block

from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology, read_topology


@pytest.fixture(scope="session")
def network() -> Topology:
    return read_topology(network_block())


@pytest.fixture(scope="session")
def image() -> Any:
    return np.random.default_rng(3).normal(size=(1, 3, 16, 24)).astype(np.float32)


@pytest.fixture(scope="session")
def measured(network: Topology, image: Any) -> Statistics:
    return figures(network, image)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small photos of different shapes."""
    import cv2

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(11)
    for number, (height, width) in enumerate(((64, 64), (48, 96), (96, 48), (60, 80), (64, 64))):
        pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (width, height))
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder
