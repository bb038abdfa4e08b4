"""Rounding weights so that their errors cancel on the inputs that occur, instead of each to the nearest step.

What a convolution adds up are patches of its input, whose values hang together: neighbours in space, channels that
light up at once. So the error of one weight can be made up for by those that are rounded after it. GPTQ (Frantar et
al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", ICLR 2023, algorithm 1,
columns in their own order): with H the mean of x x^T over patches x, going through the columns, the error of each is
spread over the ones to come by the Cholesky factor of the inverse of H.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Columns whose errors are handed on together; only speed depends on it.
_BLOCK = 64


def round_together(
    weight: Float64, moments: Float64, *, most: int, partners: tuple[Index, ...] = (), most_of_pair: int = 0
) -> Float64:
    """Whole numbers near ``weight`` that keep ``weight @ x`` as it is on inputs with these second moments.

    Args:
        weight: (O, K) in steps: weights divided by their row's scale.
        moments: (K, K) mean of ``x x^T`` over the inputs, positive definite.
        most: largest magnitude of a result.
        partners: each (K,): column -> the column whose result counts together with it, -1 for none.
        most_of_pair: largest sum of the magnitudes of two partners of one sign.

    Returns:
        (O, K) whole numbers.

    Raises:
        numpy.linalg.LinAlgError: ``moments`` is not positive definite.
    """
    columns = weight.shape[1]
    inverse = np.linalg.inv(moments)
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, rounded = weight.astype(np.float64), np.zeros_like(weight, np.float64)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = np.zeros((len(weight), end - start))
        for column in range(start, end):
            value = np.clip(np.rint(left[:, column]), -most, most)
            for partner in partners:
                if 0 <= partner[column] < column:
                    value = _beside(value, rounded[:, partner[column]], most_of_pair)
            rounded[:, column] = value
            error = (left[:, column] - value) / factor[column, column]
            left[:, column:end] -= np.outer(error, factor[column, column:end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def _beside(value: Float64, other: Float64, most_of_pair: int) -> Float64:
    """``value``, cut where it and ``other`` have one sign and would be too large together."""
    room = most_of_pair - np.abs(other)
    return np.where(value * other > 0, np.clip(value, -room, room), value)
