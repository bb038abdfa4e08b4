"""The assignment is that of munkres 1.1.4, ties included."""

import munkres
import numpy as np
import pytest

from hhrnet_deploy.decode.reference.assignment import assign


def _munkres_columns(cost: np.ndarray) -> list[int]:
    return [int(column) for _, column in munkres.Munkres().compute([row.copy() for row in cost])]


def _tied_costs(rng: np.random.Generator, rows: int, columns: int, distances: int) -> np.ndarray:
    """Costs as grouping makes them: few rounded distances, minus a score per row, columns of nobody at the end."""
    cost = rng.integers(0, distances, (rows, columns)) * 100.0
    cost = cost - rng.choice([0.3, 0.5, 0.7], (rows, 1)).astype(np.float32).astype(np.float64)
    return np.pad(cost, ((0, 0), (0, max(0, rows - columns))), constant_values=1e10)


@pytest.mark.parametrize("distances", [1, 2, 4, 50])
def test_ties_are_broken_as_munkres_breaks_them(distances: int) -> None:
    rng = np.random.default_rng(distances)
    for _ in range(150):
        cost = _tied_costs(rng, int(rng.integers(1, 13)), int(rng.integers(1, 13)), distances)
        assert assign(cost) == _munkres_columns(cost), cost


def test_continuous_costs_match_munkres() -> None:
    rng = np.random.default_rng(7)
    for _ in range(100):
        rows = int(rng.integers(1, 13))
        cost = rng.normal(size=(rows, rows + int(rng.integers(0, 6))))
        assert assign(cost) == _munkres_columns(cost)


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (30, 12), (12, 30)])
def test_thirty_candidates_match_munkres(rows: int, columns: int) -> None:
    cost = _tied_costs(np.random.default_rng(rows * columns), rows, columns, 5)
    assert assign(cost) == _munkres_columns(cost)


@pytest.mark.slow
def test_a_hundred_candidates_match_munkres() -> None:
    for seed in range(3):
        cost = _tied_costs(np.random.default_rng(seed), 100, 80 + 10 * seed, 6)
        assert assign(cost) == _munkres_columns(cost)
