"""K models of one architecture as one: weights and buffers with a leading dimension of K, run by `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from clearloop.errors import ModelError
from clearloop.losses import LossFunc


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
        self._names = stored_names(models[0])
        self.loss_func = loss_func
        self._gradients = vmap(grad_and_value(self._loss), in_dims=(0, 0, 0, 0), randomness="different")
        self._forward = vmap(self._preds, in_dims=(0, 0, None), randomness="different")
        self._losses = vmap(loss_func, in_dims=(0, None), randomness="different")

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def gradients(self, inputs: Any, targets: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by weight, each (K, …), and losses (K,); batches are (K, batch_size, …), one a member.

        Raises: ModelError where the model does something that vmap cannot follow.
        """
        self.model.train()
        try:
            return self._gradients(self.weights, self.buffers, inputs, targets)
        except RuntimeError as error:
            raise refused(error) from error

    @torch.no_grad()
    def preds(self, inputs: Any) -> Any:
        """What each member gives for one batch: (K, batch_size, …), in evaluation mode. Raises: ModelError."""
        self.model.eval()
        try:
            return self._forward(self.weights, self.buffers, inputs)
        except RuntimeError as error:  # some layers are another operation where no gradient is asked for
            raise refused(error) from error

    @torch.no_grad()
    def losses(self, preds: Any, targets: Any) -> Tensor:
        """The loss of each member for the same targets: (K,)."""
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

    def _loss(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Any, targets: Any) -> Tensor:
        return self.loss_func(self._preds(weights, buffers, inputs), targets)


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
