"""The optimisers of a recipe: Adam as the official code has it, or Muon for the convolutions and Adam for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hhrnet_deploy.train.arithmetic import has_bf16
from hhrnet_deploy.train.recipe import Optimiser

# Jordan et al. 2024, "Muon": the quintic that drives singular values towards 1, steepest at 0.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Liu et al. 2025, "Muon is scalable for LLM training", 2.2: the size of Adam's updates, so that rates carry over.
_ADAM_SIZE = 0.2
_MOMENTUM = 0.95
# The layers before and after which nothing normalises; Muon is made for the matrices in between.
_ENDS = ("conv1.", "final_layers.")


def make_optimiser(options: Optimiser, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that a recipe asks for, over all parameters of ``network``."""
    if options.kind == "adam":
        return _adam(options, network.parameters())
    inner, others = [], []
    for name, module in network.named_modules():
        is_inner = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not f"{name}.".startswith(_ENDS)
        for key, parameter in module.named_parameters(recurse=False):
            if is_inner and key == "weight":
                inner.append((parameter, isinstance(module, nn.ConvTranspose2d)))
            else:
                others.append(parameter)
    return MuonAndAdam(inner, _adam(options, others), lr=options.lr, weight_decay=options.weight_decay)


def _adam(options: Optimiser, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    if options.weight_decay:
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.Adam(parameters, lr=options.lr)


def load_keeping_options(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load momenta and step counts; rates, betas and weight decay stay what the optimiser was made with.

    Raises:
        KeyError, ValueError: the state is of another optimiser or of other parameters.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, options in zip(optimiser.param_groups, own, strict=True):
        group.update(options)


class MuonAndAdam(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) over convolution weights, another optimiser over everything else.

    A weight is the matrix (outputs, inputs * height * width). Its step is the Nesterov momentum of the gradient with
    all singular values near 1, scaled to the size of Adam's steps. ``torch.optim.Muon`` takes matrices only.

    Args:
        weights: 4-D parameters, each with whether its first axis is the inputs (a transposed convolution's).
        rest: over all other parameters; takes the rate of the second group.
        lr: learning rate; a change of ``param_groups[...]["lr"]`` reaches both parts.
        weight_decay: decoupled, of the 4-D parameters.
    """

    def __init__(
        self, weights: list[tuple[nn.Parameter, bool]], rest: torch.optim.Optimizer, *, lr: float, weight_decay: float
    ) -> None:
        others = [parameter for group in rest.param_groups for parameter in group["params"]]
        super().__init__([{"params": [weight for weight, _ in weights]}, {"params": others}], {"lr": lr})
        self._transposed = {weight for weight, transposed in weights if transposed}
        self._rest = rest
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step with the gradients as they are; ``closure`` is not used."""
        del closure
        convolutions, others = self.param_groups
        alike: dict[tuple[bool, torch.Size], list[nn.Parameter]] = defaultdict(list)
        for weight in convolutions["params"]:
            if weight.grad is not None:
                alike[weight in self._transposed, weight.shape].append(weight)
        for (transposed, _), weights in alike.items():
            self._turn(weights, transposed, convolutions["lr"])
        for group in self._rest.param_groups:
            group["lr"] = others["lr"]
        self._rest.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts."""
        return {**super().state_dict(), "rest": self._rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        own = dict(state_dict)
        load_keeping_options(self._rest, own.pop("rest"))
        super().load_state_dict(own)

    def _turn(self, weights: list[nn.Parameter], transposed: bool, rate: float) -> None:
        """The step of weights of one shape, all at once."""
        momenta = [self._momentum(weight) for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch.stack([*torch._foreach_lerp(gradients, momenta, _MOMENTUM)])
        if transposed:
            ahead = ahead.transpose(1, 2)
        matrices = orthogonal(ahead.flatten(2))
        steps = (matrices * (_ADAM_SIZE * max(matrices.shape[1:]) ** 0.5)).view_as(ahead).to(ahead.dtype)
        if transposed:
            steps = steps.transpose(1, 2)
        values: list[Tensor] = [*weights]
        if self._weight_decay:
            torch._foreach_mul_(values, 1 - rate * self._weight_decay)
        torch._foreach_sub_(values, [*steps], alpha=rate)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the singular vectors of the given ones and singular values between about 0.7 and 1.2.

    Args:
        matrices: (N, R, C), any floating-point type; computed in bfloat16, or in float32 on a device without it.

    Returns:
        (N, R, C) float32.
    """
    first, second, third = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    turned = (matrices.mT if tall else matrices).float()
    now: Tensor = turned / turned.norm(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    now = now.to(torch.bfloat16 if has_bf16(matrices.device) else torch.float32).contiguous()
    for _ in range(_ITERATIONS):
        square = now @ now.mT
        now = torch.baddbmm(now, torch.baddbmm(square, square, square, beta=second, alpha=third), now, beta=first)
    level: Tensor = (now.mT if tall else now).float()
    return level
