"""Optimal assignment with the tie order of the Python package munkres 1.1.4.

Rounded tag distances make equally cheap assignments common, and which of them is returned decides who gets a joint. The
published results come from munkres 1.1.x (Brian M. Clapper, Apache License 2.0); this module visits the matrix in the
same order and does the same float64 operations, so it returns the same pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_NONE, _STAR, _PRIME = 0, 1, 2


def assign(cost: Float64) -> list[int]:
    """The column of each row of ``cost`` (rows, columns), rows <= columns, for the least total cost.

    Missing rows are padded with zeros, as munkres does.
    """
    rows, size = cost.shape
    matrix = np.zeros((size, size))
    matrix[:rows] = cost
    matrix -= matrix.min(axis=1, keepdims=True)
    marks = _first_stars(matrix)
    while (marks == _STAR).any(axis=0).sum() < size:
        row, column = _find_free_prime(matrix, marks)
        _flip_path(marks, row, column)
        marks[marks == _PRIME] = _NONE
    return [int(np.flatnonzero(marks[row] == _STAR)[0]) for row in range(rows)]


def _first_stars(matrix: Float64) -> npt.NDArray[np.int8]:
    """Star the first zero of each row whose column has none yet."""
    size = len(matrix)
    marks = np.zeros((size, size), np.int8)
    taken = np.zeros(size, bool)
    for row in range(size):
        free = np.flatnonzero((matrix[row] == 0) & ~taken)
        if free.size:
            marks[row, free[0]] = _STAR
            taken[free[0]] = True
    return marks


def _find_free_prime(matrix: Float64, marks: npt.NDArray[np.int8]) -> tuple[int, int]:
    """Prime uncovered zeros, changing the matrix where there is none, until one stands in a row without a star."""
    covered_row = np.zeros(len(matrix), bool)
    covered_column = (marks == _STAR).any(axis=0)
    row, column = 0, 0
    while True:
        found = _find_zero((matrix == 0) & ~covered_row[:, None] & ~covered_column, row, column)
        if found is None:
            _make_zero(matrix, covered_row, covered_column)
            row, column = 0, 0
            continue
        row, column = found
        marks[row, column] = _PRIME
        stars = np.flatnonzero(marks[row] == _STAR)
        if not stars.size:
            return row, column
        column = int(stars[0])
        covered_row[row] = True
        covered_column[column] = False


def _find_zero(free: Mask, row: int, column: int) -> tuple[int, int] | None:
    """The first row from ``row`` on (cyclic) with a free zero, and its LAST one in the cyclic order from ``column``."""
    size = len(free)
    rows = np.flatnonzero(free.any(axis=1))
    if not rows.size:
        return None
    first = int(rows[np.argmin((rows - row) % size)])
    columns = np.flatnonzero(free[first])
    return first, int(columns[np.argmax((columns - column) % size)])


def _make_zero(matrix: Float64, covered_row: Mask, covered_column: Mask) -> None:
    """Add the smallest uncovered value to covered rows, then take it from uncovered columns (both where both apply)."""
    smallest = matrix[np.ix_(~covered_row, ~covered_column)].min()
    matrix[covered_row] += smallest
    matrix[:, ~covered_column] -= smallest


def _flip_path(marks: npt.NDArray[np.int8], row: int, column: int) -> None:
    """Star the primes and unstar the stars of the alternating path that starts at a prime without a star in its row."""
    path = [(row, column)]
    while True:
        star = np.flatnonzero(marks[:, path[-1][1]] == _STAR)
        if not star.size:
            break
        path.append((int(star[0]), path[-1][1]))
        prime = np.flatnonzero(marks[path[-1][0]] == _PRIME)
        path.append((path[-1][0], int(prime[0])))
    for place in path:
        marks[place] = _NONE if marks[place] == _STAR else _STAR
