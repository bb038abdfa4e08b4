"""Losses and their gradients against loops written from SEMANTICS, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from hhrnet_deploy.train.losses import LossFactors, Targets, heat_loss, tag_loss, total_loss

K, SIZE = 5, 12


def _people(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, K * SIZE * SIZE, (1, count, K), generator=generator)
    visible = torch.rand((1, count, K), generator=generator) > 0.4
    if count:
        visible[0, 0] = torch.arange(K) == 2  # somebody with a single joint
    return index, visible


def _naive_tags(tags: torch.Tensor, index: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One image, person by person and pair by pair."""
    flat = tags.reshape(-1)
    zero = flat[0] * 0
    means, pull = [], zero
    for where, seen in zip(index, visible, strict=True):
        read = [flat[int(position)] for position, yes in zip(where, seen, strict=True) if yes]
        if not read:
            continue
        mean = sum(read) / len(read)
        means.append(mean)
        pull = pull + sum((value - mean) ** 2 for value in read) / len(read)
    n = len(means)
    if n == 0:
        return zero, zero
    if n == 1:
        return zero, pull
    push = zero
    for one in means:
        for other in means:
            push = push + torch.exp(-((one - other) ** 2))
    return 0.5 * (push - n) / (n * (n - 1)), pull / n


@pytest.mark.parametrize("people", [0, 1, 2, 30, 31])
def test_tag_loss_and_gradient(people: int) -> None:
    index, visible = _people(people, seed=people)
    tags = torch.randn((1, K, SIZE, SIZE), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, theirs = tags.clone().requires_grad_(), tags.clone().requires_grad_()
    push, pull = tag_loss(mine, index, visible)
    (push + 0.7 * pull).sum().backward()
    naive_push, naive_pull = _naive_tags(theirs[0], index[0], visible[0])
    (naive_push + 0.7 * naive_pull).backward()
    assert push.item() == pytest.approx(naive_push.item(), abs=1e-12)
    assert pull.item() == pytest.approx(naive_pull.item(), abs=1e-12)
    assert mine.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-12, rtol=0)


def test_padding_people_changes_nothing() -> None:
    index, visible = _people(3, seed=5)
    tags = torch.randn((1, K, SIZE, SIZE), dtype=torch.float64)
    padded = torch.cat([index, torch.zeros((1, 7, K), dtype=torch.int64)], 1)
    hidden = torch.cat([visible, torch.zeros((1, 7, K), dtype=torch.bool)], 1)
    for mine, theirs in zip(tag_loss(tags, index, visible), tag_loss(tags, padded, hidden), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-14, rtol=0)


def test_images_of_a_batch_do_not_mix() -> None:
    first, second = _people(4, seed=1), _people(4, seed=2)
    tags = torch.randn((2, K, SIZE, SIZE), dtype=torch.float64)
    push, pull = tag_loss(tags, torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    for number, (index, visible) in enumerate((first, second)):
        alone = tag_loss(tags[number : number + 1], index, visible)
        torch.testing.assert_close(push[number], alone[0][0])
        torch.testing.assert_close(pull[number], alone[1][0])


def test_two_equal_people_push_and_distant_people_do_not() -> None:
    tags = torch.zeros((1, 1, 1, 4), dtype=torch.float64)
    tags[0, 0, 0] = torch.tensor([0.0, 0.0, 100.0, 200.0])
    visible = torch.ones((1, 2, 1), dtype=torch.bool)
    close = tag_loss(tags, torch.tensor([[[0], [1]]]), visible)[0]
    apart = tag_loss(tags, torch.tensor([[[2], [3]]]), visible)[0]
    assert close.item() == 0.5
    assert apart.item() == 0.0


def test_heat_loss_is_a_mean_that_counts_masked_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, K, 6, 7)
    predicted = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randn(shape, dtype=torch.float64, generator=generator)
    mask = (torch.rand((2, 6, 7), generator=generator) > 0.3).double()
    loss = heat_loss(predicted, target, mask)
    for image in range(2):
        total = sum(
            (predicted[image, k, y, x].item() - target[image, k, y, x].item()) ** 2 * mask[image, y, x].item()
            for k in range(K)
            for y in range(6)
            for x in range(7)
        )
        assert loss[image].item() == pytest.approx(total / (K * 6 * 7), abs=1e-14)
    loss.sum().backward()
    expected = 2 * (predicted.detach() - target) * mask[:, None] / (K * 6 * 7)
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, expected, atol=1e-15, rtol=0)


def test_foreground_weighs_pixels_by_their_target() -> None:
    predicted, target = torch.zeros((1, 1, 1, 2)), torch.tensor([[[[1.0, 0.5]]]])
    loss = heat_loss(predicted, target, torch.ones((1, 1, 2)), foreground=4.0)
    assert loss.item() == pytest.approx((1 * 5 + 0.25 * 3) / 2)


def test_total_loss_multiplies_and_averages() -> None:
    index, visible = _people(2, seed=3)
    targets = Targets(
        torch.zeros((2, K, SIZE, SIZE)),
        torch.zeros((2, K, 2 * SIZE, 2 * SIZE)),
        torch.ones((2, SIZE, SIZE)),
        torch.ones((2, 2 * SIZE, 2 * SIZE)),
        index.repeat(2, 1, 1),
        visible.repeat(2, 1, 1),
    )
    coarse = torch.randn((2, 2 * K, SIZE, SIZE))
    fine = torch.randn((2, K, 2 * SIZE, 2 * SIZE))
    parts = total_loss(coarse, fine, targets, LossFactors(coarse_heat=2.0, fine_heat=3.0, push=0.5, pull=0.25))
    push, pull = tag_loss(coarse[:, K:], targets.tag_index, targets.tag_visible)
    assert parts.coarse_heat.item() == pytest.approx(2 * coarse[:, :K].square().mean().item(), rel=1e-5)
    assert parts.fine_heat.item() == pytest.approx(3 * fine.square().mean().item(), rel=1e-5)
    assert parts.push.item() == pytest.approx(0.5 * push.mean().item(), rel=1e-5)
    assert parts.pull.item() == pytest.approx(0.25 * pull.mean().item(), rel=1e-5)
    assert parts.total().item() == pytest.approx(sum(part.item() for part in parts), rel=1e-6)


def test_bf16_heads_are_compared_in_float32() -> None:
    targets = Targets(
        torch.full((1, K, 4, 4), 1e-3),
        torch.zeros((1, K, 8, 8)),
        torch.ones((1, 4, 4)),
        torch.ones((1, 8, 8)),
        torch.zeros((1, 0, K), dtype=torch.int64),
        torch.zeros((1, 0, K), dtype=torch.bool),
    )
    parts = total_loss(
        torch.zeros((1, 2 * K, 4, 4), dtype=torch.bfloat16),
        torch.zeros((1, K, 8, 8), dtype=torch.bfloat16),
        targets,
        LossFactors(),
    )
    assert parts.coarse_heat.dtype == torch.float32
    assert math.isclose(parts.coarse_heat.item(), 1e-6, rel_tol=1e-5)
