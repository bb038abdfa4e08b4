"""The simulated card's driver, compiled once."""

from __future__ import annotations

from typing import Any

import pytest
from sim_card import open_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_library(tmp_path_factory.mktemp("sim"))
