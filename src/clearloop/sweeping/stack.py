"""K models of one architecture as one: weights and buffers with a leading dimension of K, run by `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from clearloop.errors import ModelError
from clearloop.losses import LossFunc
from clearloop.tree import length, tree_map


class Stack:
    """Weights and buffers of K models, and what can be done with all of them at once.

    Args: `models`, of one architecture, all on one device; `loss_func`, (preds, targets) -> 0-d tensor.

    Batch norm works: its statistics are stacked too. Dropout draws a mask of its own for each member.
    """

    def __init__(self, models: Sequence[nn.Module], loss_func: LossFunc) -> None:
        parameters, self.buffers = stack_module_state([model.train() for model in models])
        frozen = {name for name, parameter in models[0].named_parameters() if not parameter.requires_grad}
        self.weights = {name: p.detach() for name, p in parameters.items() if name not in frozen}
        self.buffers |= {name: p.detach() for name, p in parameters.items() if name in frozen}
        self.model = copy.deepcopy(models[0])  # a real one: on the "meta" device weights are tied no longer
        for layer in self.model.modules():
            if type(layer) is nn.Linear:
                layer.forward = partial(linear, layer)  # type: ignore[method-assign]
        self._names = stored_names(models[0])
        self.loss_func = loss_func
        self._forward = of_members(self._preds, stacked=2)
        self._losses = vmap(loss_func, in_dims=0, randomness="different")

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def gradients(self, inputs: Any, targets: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by weight, each (K, …), and losses (K,); a weight that the loss does not depend on has none.

        Args: `inputs` and `targets` of S batches, shape (S, batch_size, …), where S divides K: the first K / S members
        see the first, and so on.

        Raises: ModelError where the model does something that vmap cannot follow.
        """
        if not self.model.training:  # asked, as going through all layers costs more than some of them
            self.model.train()
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        try:
            losses = self.losses(self._forward(leaves, self.buffers, inputs), targets)
            # The members have no weight in common, so the gradients of the sum are those of each. They are taken
            # outside of vmap, which inside would go through the backward pass once more, operation by operation.
            found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        except RuntimeError as error:
            raise refused(error) from error
        known = zip(leaves, found, strict=True)
        return {name: gradient for name, gradient in known if gradient is not None}, losses.detach()

    @torch.no_grad()
    def preds(self, inputs: Any) -> Any:
        """What each member gives for S batches: (K, batch_size, …), in evaluation mode. Raises: ModelError."""
        self.model.eval()
        try:
            return self._forward(self.weights, self.buffers, inputs)
        except RuntimeError as error:  # some layers are another operation where no gradient is asked for
            raise refused(error) from error

    def losses(self, preds: Any, targets: Any) -> Tensor:
        """The loss of each member, (K,); `targets` of S batches."""
        batches, each = length(targets), len(self) // length(targets)
        targets = tree_map(lambda own: own.unsqueeze(1).expand(batches, each, *own.shape[1:]).flatten(0, 1), targets)
        if self.loss_func is F.cross_entropy and preds.ndim == 3 and not targets.is_floating_point():
            return cross_entropies(preds, targets)
        return self._losses(preds, targets)

    def keep(self, members: Tensor) -> None:
        """Go on with some of the members: int64 of shape (those that stay,)."""
        self.weights = {name: tensor[members] for name, tensor in self.weights.items()}
        self.buffers = {name: tensor[members] for name, tensor in self.buffers.items()}

    def state(self, member: int) -> dict[str, Tensor]:
        """The weights and buffers of one member, copied: for `model.load_state_dict`."""
        stacked = self.weights | self.buffers
        return {name: stacked[own][member].clone() for name, own in self._names.items()}

    def _preds(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Any) -> Any:
        return functional_call(self.model, (weights, buffers), inputs if isinstance(inputs, tuple) else (inputs,))


def of_members(fn: Callable[..., Any], stacked: int) -> Callable[..., Any]:
    """A function of one member as a function of K: its first `stacked` arguments are (K, …), the last is S batches.

    S divides K. Each batch goes once to all members that share it, so that what they do with it can be one operation.

    >>> scaled = of_members(lambda weight, batch: (weight * batch).sum(), stacked=1)
    >>> scaled(torch.arange(4.0), torch.tensor([[1.0, 1.0], [1.0, 2.0]]))
    tensor([0., 2., 6., 9.])
    """
    alike = vmap(fn, in_dims=(*(0,) * stacked, None), randomness="different")
    apart, groups = (vmap(inner, in_dims=0, randomness="different") for inner in (fn, alike))

    def call(*args: Any) -> Any:
        *own, seen = args
        members, batches = length(own[0]), length(seen)
        if batches == 1:
            return alike(*own, tree_map(lambda tensor: tensor[0], seen))
        if batches == members:
            return apart(*args)
        own = [tree_map(lambda tensor: tensor.unflatten(0, (batches, -1)), part) for part in own]  # (S, K / S, …)
        return tree_map(lambda tensor: tensor.flatten(0, 1), groups(*own, seen))

    return call


def linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """A linear layer, its product written weights first: with a batch that is the same for K of them, vmap then makes
    one product of shape (K * outputs, batch_size), where `F.linear` ends in K small ones.

    >>> layer, inputs = nn.Linear(3, 2), torch.ones(4, 3)
    >>> torch.allclose(linear(layer, inputs), layer(inputs))
    True
    """
    if inputs.ndim != 2:
        return F.linear(inputs, layer.weight, layer.bias)
    preds = (layer.weight @ inputs.T).T  # (outputs, batch_size) -> (batch_size, outputs)
    return preds if layer.bias is None else preds + layer.bias


def cross_entropies(preds: Tensor, targets: Tensor) -> Tensor:
    """`F.cross_entropy` of each member, in a sixth of the time of vmap, which makes many small operations of it.

    Args: `preds`, (K, batch_size, classes); `targets`, whole numbers of shape (K, batch_size).

    >>> cross_entropies(torch.zeros(1, 5, 4), torch.tensor([[0, 1, 2, 3, -100]]))
    tensor([1.3863])
    """
    losses = F.cross_entropy(preds.transpose(1, 2), targets, reduction="none")  # (K, B)
    return losses.sum(1) / (targets != -100).sum(1)  # the target that says: leave this one out


def stored_names(model: nn.Module) -> dict[str, str]:
    """The names in a model's `state_dict`, each with the one that `named_parameters` has for it: tied weights have two.

    >>> first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> second.weight = first.weight
    >>> stored_names(nn.Sequential(first, second))
    {'0.weight': '0.weight', '1.weight': '0.weight'}
    """
    once = [*model.named_parameters(), *model.named_buffers()]
    own = {id(tensor): name for name, tensor in once}
    kept = [(n, t) for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor) and id(t) in own]
    return {name: own[id(tensor)] for name, tensor in kept}


def refused(error: Exception) -> ModelError:
    """What to say of a model that vmap cannot follow."""
    return ModelError(
        f"this model cannot be trained as a stack: {first_line(error)}; train its members one by one, or "
        "write that layer with operations that torch.func.vmap knows"
    )


def first_line(error: Exception) -> str:
    """What an error says, without what torch adds below."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
