"""torch's SGD, Adam and AdamW as functions of tensors, so that a compiler can see the whole of an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from clearloop.errors import ConfigError

KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
Group = dict[str, Any]  # one of an optimizer's param_groups


def require_known(opt: Any) -> None:
    """Raise ConfigError, with the reason, for an optimizer whose update is not among these."""
    kind = type(opt)
    if kind not in KNOWN:
        raise ConfigError(f"the optimizer is {kind.__name__}; SGD, Adam and AdamW of torch can be compiled")
    if any(group.get("differentiable") for group in opt.param_groups):
        raise ConfigError("the optimizer is differentiable, which compiled steps are not")
    hooks = [name for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks") if getattr(opt, name, None)]
    if hooks:
        raise ConfigError("the optimizer has step hooks, which compiled steps do not call")


def is_cycled(opt: Any) -> bool:
    """Whether a torch scheduler (OneCycleLR, CyclicLR) changes the momentum, or Adam's first beta, at every step."""
    return any("max_momentum" in group for group in opt.param_groups)


def moments(opt: Any, group: Group, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """What the optimizer keeps of each parameter of a group: lists of tensors, empty where it keeps nothing.

    Raises: KeyError if a parameter has had no step yet.
    """
    if isinstance(opt, torch.optim.SGD):
        names = ["momentum_buffer"] if group["momentum"] else []
    else:
        names = ["exp_avg", "exp_avg_sq", "step", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
    kept = [opt.state.get(parameter, {}) for parameter in parameters]  # to ask by [] would make an entry
    return [[values[name] for values in kept] for name in names]


OPTIONS = (
    *("momentum", "dampening", "nesterov", "betas", "eps", "amsgrad"),
    *("weight_decay", "decoupled_weight_decay", "maximize"),
)


def options(group: Group) -> Group:
    """The options of a group that are constants of a compiled step; the learning rate is none."""
    return {name: group[name] for name in OPTIONS if name in group}


def update(
    kind: type, options: Group, weights: list[Tensor], grads: list[Tensor], kept: list[list[Tensor]], lr: Tensor
) -> None:
    """One update in place, by torch's own functional forms.

    Args: `lr`, a 0-d tensor, so that a new value is no new program; `kept` as `moments` gives it.

    Weight decay that is part of the gradient is added here: of `matrix product + alpha * weight`, which those
    functions write, torch 2.13's compiler loses the factor.

    >>> weight, grad = torch.ones(2), torch.ones(2)
    >>> update(torch.optim.SGD, {"weight_decay": 1.0}, [weight], [grad], [], torch.tensor(0.25))
    >>> weight
    tensor([0.5000, 0.5000])
    """
    if options.get("maximize"):
        grads = [-grad for grad in grads]
    decay = options["weight_decay"]
    decoupled = kind is torch.optim.AdamW or bool(options.get("decoupled_weight_decay"))
    if decay and not decoupled:
        grads = [grad + decay * weight for grad, weight in zip(grads, weights, strict=True)]
    plain: dict[str, Any] = {"maximize": False, "foreach": False, "fused": False, "lr": lr}
    if kind is torch.optim.SGD:
        momentum = options.get("momentum", 0.0)
        damped = {"dampening": options.get("dampening", 0.0), "nesterov": options.get("nesterov", False)}
        velocities: list[Tensor | None] = list(kept[0]) if momentum else [None] * len(weights)
        sgd(weights, grads, velocities, weight_decay=0.0, momentum=momentum, **damped, **plain)
        return
    mean, square, steps, *largest = kept
    beta1, beta2 = options["betas"]
    adam(
        *(weights, grads, mean, square, largest[0] if largest else [], steps),
        amsgrad=options["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=decay if decoupled else 0.0,
        eps=options["eps"],
        decoupled_weight_decay=decoupled,
        **plain,
    )
