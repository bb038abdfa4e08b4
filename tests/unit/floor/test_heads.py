"""Heads fit each other or are refused; whatever speaks DLPack on the host is taken without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.heads import Heads


def _arrays(batch: int = 2, joints: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((batch, 2 * joints, 4, 5)).astype(np.float32)
    return coarse, rng.standard_normal((batch, joints, 8, 10)).astype(np.float32)


def test_torch_tensors_are_seen_without_a_copy() -> None:
    import torch

    coarse, fine = (torch.from_numpy(array) for array in _arrays())
    heads = Heads(coarse, fine)
    fine[0, 0, 0, 0] = 7
    assert isinstance(heads.fine, np.ndarray)
    assert heads.fine[0, 0, 0, 0] == 7


def test_tensors_that_need_gradients_are_refused_with_a_hint() -> None:
    import torch

    coarse, fine = (torch.from_numpy(array) for array in _arrays())
    with pytest.raises(InputError, match="Detach"):
        Heads(coarse.requires_grad_(), fine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coarse, fine: (coarse[:, :-1], fine), "twice the channels"),
        (lambda coarse, fine: (coarse[:1], fine), "batch"),
        (lambda coarse, fine: (coarse[0], fine), "4-dimensional"),
        (lambda coarse, fine: (coarse.astype(np.float64), fine), "float32 or float16"),
        (lambda coarse, fine: (coarse, fine[:, :, :0]), "empty"),
        (lambda coarse, fine: (coarse, fine, coarse, None), "both flipped"),
        (lambda coarse, fine: (coarse, fine, coarse, fine[:, :, :4]), "flipped head"),
        (lambda coarse, fine: (coarse, "fine"), "DLPack"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Heads(*change(*_arrays()))


def test_one_image_keeps_all_its_outputs() -> None:
    coarse, fine = _arrays()
    one = Heads(coarse, fine, coarse, fine).image(1)
    assert one.batch == 1
    assert one.has_flip
    assert np.array_equal(one.fine[0], fine[1])
