from __future__ import annotations

import numpy as np
import pytest

from hhrnet_deploy.errors import GateFailedError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.targets.parity import Difference, Parity, Tolerance, check, compare


def heads(seed: int = 0, n: int = 1) -> Heads:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 34, 8, 8)).astype(np.float32)
    coarse[:, :17] *= 0.01
    return Heads(coarse, rng.normal(size=(n, 17, 16, 16)).astype(np.float32))


def moved(value: Heads, heat: float = 0.0, tags: float = 0.0) -> Heads:
    coarse = value.coarse.copy()
    coarse[:, :17] += np.float32(heat)
    coarse[:, 17:] += np.float32(tags)
    return Heads(coarse, value.fine)


def test_heat_maps_are_not_hidden_behind_the_larger_tags() -> None:
    differences = compare([(heads(), moved(heads(), heat=0.005))])
    assert list(differences) == ["coarse.heat", "coarse.tags", "fine"]
    assert differences["coarse.heat"].relative_max == pytest.approx(0.5, rel=0.1)
    assert differences["coarse.tags"].max == differences["fine"].max == 0


def test_the_worst_of_several_shapes_counts() -> None:
    pairs = [(heads(), heads()), (heads(1, 2), moved(heads(1, 2), tags=0.25))]
    difference = compare(pairs)["coarse.tags"]
    assert difference.max == pytest.approx(0.25, abs=1e-6)
    assert difference.mean == pytest.approx(0.125, abs=1e-6)


def test_other_outputs_or_shapes_fail() -> None:
    flipped = Heads(*heads().as_tuple()[:2], *heads().as_tuple()[:2])
    for other in (flipped, heads(n=2)):
        with pytest.raises(GateFailedError, match="Outputs are"):
            compare([(heads(), other)])


def test_a_difference_beyond_the_limit_is_named() -> None:
    outputs = compare([(heads(), moved(heads(), tags=0.01))])
    parity = Parity(reference="torch", images="none", shapes=((1, 32, 32),), outputs=outputs)
    check(parity, Tolerance(relative_max=0.02), what="this")
    with pytest.raises(GateFailedError, match=r"largest difference of coarse\.tags from torch"):
        check(parity, Tolerance(relative_max=0.001), what="this")
    with pytest.raises(GateFailedError, match="mean difference"):
        check(parity, Tolerance(relative_mean=0.001), what="this")


def test_a_constant_reference_allows_nothing_but_itself() -> None:
    assert Difference(max=0, mean=0, quantile_999=0, reference_std=0).relative_max == 0
    assert Difference(max=1e-9, mean=0, quantile_999=0, reference_std=0).relative_max == float("inf")
