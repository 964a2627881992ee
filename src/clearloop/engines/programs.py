"""Whole training steps as one compiled program: gather, forward, loss, backward and update, one or several a call."""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.nn.utils import get_total_norm

from clearloop.engines import rules
from clearloop.engines.windows import Part
from clearloop.guard import evaluating
from clearloop.step import Span, TrainState
from clearloop.tree import tree_map

Program = Callable[..., list[Tensor]]
Compiler = Callable[[Program], Program]
# Random numbers as eager code draws them; and in the order in which it does: torch 2.13's reordering, to save memory,
# moves the draw of a dropout mask behind where the mask is used.
OPTIONS: dict[str, Any] = {"fallback_random": True, "reorder_for_peak_memory": False, "size_asserts": False}
EPS_CLIP = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Forward(nn.Module):
    """A model as `state.forward` calls it (autocast, several inputs), which takes weights from outside."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.model = state.model
        vars(self)["call"] = state.forward  # often the model itself, which must not be registered twice
        modules = dict(self.named_modules())
        places = [(name, *name.rpartition(".")[::2]) for name, _ in self.named_buffers()]
        self.places = [(name, modules[owner], key) for name, owner, key in places]

    def forward(self, inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """The model's outputs, and its buffers after them: a module may have put others in their place."""
        outputs = vars(self)["call"](inputs)
        return outputs, self.current()

    def current(self) -> dict[str, Tensor]:
        """The buffers by name, as they are at this moment."""
        return {name: module._buffers[key] for name, module, key in self.places}


class Layout:
    """Which tensors a step changes, and by which rule; another one where that has changed (frozen layers, options)."""

    def __init__(self, state: TrainState) -> None:
        self.kind, self.model = type(state.opt), Forward(state)
        self._mark = mark(state)
        self._rates: list[list[float]] = []
        self._rate_tensors: list[list[Tensor]] = []
        name_of = {id(parameter): name for name, parameter in self.model.named_parameters()}
        without = unused(state)
        self._trained = [
            [p for p in group["params"] if p.requires_grad and id(p) not in without] for group in state.opt.param_groups
        ]
        self.names = [name_of[id(parameter)] for group in self._trained for parameter in group]
        self.options = [rules.options(group) for group in state.opt.param_groups]
        named = self.model.named_parameters()
        self.frozen = {name: p.detach() for name, p in named if name not in set(self.names)}
        double = any(parameter.dtype == torch.float64 for group in self._trained for parameter in group)
        self._rate_type = torch.float64 if double else torch.float32
        told = repr((self.names, self.options)).encode()
        self.digest = hashlib.sha256(told).hexdigest()[:16]  # the same in every process

    def holds(self, state: TrainState) -> bool:
        """Whether it is still true."""
        return bool(self._mark == mark(state))

    def is_watched(self) -> bool:
        """Whether somebody wants to see gradients as they are made: by hooks, which programs do not call."""
        return any(p._backward_hooks or p._post_accumulate_grad_hooks for group in self._trained for p in group)

    def weights(self) -> list[list[Tensor]]:
        """The trained parameters by group, sharing memory with the model's."""
        return [[parameter.detach() for parameter in group] for group in self._trained]

    def moments(self, opt: Any) -> list[list[list[Tensor]]]:
        """What the optimizer keeps, by group. Raises: KeyError before its first step."""
        return [rules.moments(opt, g, trained) for g, trained in zip(opt.param_groups, self._trained, strict=True)]

    def ready(self, opt: Any) -> bool:
        """Whether every trained parameter has had a step."""
        try:
            return all(tensor is not None for group in self.moments(opt) for kept in group for tensor in kept)
        except KeyError:
            return False

    def lrs(self, opt: Any, span: Span, steps: int) -> list[list[Tensor]]:
        """The learning rate of each of the first steps of a span, for each group, as 0-d tensors.

        Each is a tensor of its own: a program that was made for two would be made anew for the same one twice.
        """
        groups = opt.param_groups
        if span.lrs is None:
            rates = [[float(group["lr"]) for group in groups] for _ in range(steps)]
        else:
            rates = [[lr * group.get("lr_scale", 1.0) for group in groups] for lr in span.lrs[:steps]]
        if rates != self._rates:
            self._rates = rates
            self._rate_tensors = [[torch.tensor(rate, dtype=self._rate_type) for rate in row] for row in rates]
        return self._rate_tensors


def mark(state: TrainState) -> Any:
    """What a layout depends on: how losses are made, what requires gradients, and the options of the optimizer."""
    groups = state.opt.param_groups
    trained = [([(id(p), p.requires_grad) for p in group["params"]], rules.options(group)) for group in groups]
    return state.forward, state.loss_func, state.clip, trained


def unused(state: TrainState) -> set[int]:
    """The ids of parameters that get no gradient, which an optimizer leaves as they are, weight decay or not."""
    inputs, targets = tree_map(lambda tensor: tensor[:2] if tensor.ndim else tensor, state.example)
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    with evaluating(state.model), torch.enable_grad():
        state.model.train()
        grads = torch.autograd.grad(state.loss_func(state.forward(inputs), targets), trained, allow_unused=True)
    return {id(parameter) for parameter, grad in zip(trained, grads, strict=True) if grad is None}


def step_function(state: TrainState, layout: Layout, made: Callable[[Tensor], Any] | None) -> Program:
    """A function of tensors alone that takes the steps of some windows, in place, and gives their losses.

    Args: `made`, what makes a batch of indices where windows hold those.
    """
    model, loss_func, clip, names = layout.model, state.loss_func, state.clip, layout.names

    def batch_loss(
        weights: list[Tensor], buffers: dict[str, Tensor], source: Any, weight: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch = source if made is None else made(source)
        inputs, targets = batch if len(batch) == 2 else (batch[:-1], batch[-1])
        changed = {name: buffer.clone() for name, buffer in buffers.items()}  # what is differentiated must change none
        named = dict(zip(names, weights, strict=True))
        preds, changed = functional_call(model, (named, layout.frozen, changed), (inputs,))
        loss = loss_func(preds, targets)
        return (loss if weight is None else loss * weight), changed

    differentiate = grad_and_value(batch_loss, has_aux=True)

    def steps(
        weights: list[list[Tensor]],
        buffers: dict[str, Tensor],
        kept: list[list[list[Tensor]]],
        windows: list[list[Part]],
        lrs: list[list[Tensor]],
    ) -> list[Tensor]:
        flat = [weight for group in weights for weight in group]
        losses = []
        for window, window_lrs in zip(windows, lrs, strict=True):
            parts = []
            for source, weight in window:
                grads, (loss, changed) = differentiate(flat, buffers, source, weight)
                parts.append((loss.detach(), *grads))
                for name, buffer in buffers.items():
                    buffer.copy_(changed[name])
            loss, *grads = [sum_of(each) for each in zip(*parts, strict=True)]
            losses.append(loss)
            with torch.no_grad():
                if clip is not None:
                    scale = torch.clamp(clip / (get_total_norm(grads, foreach=False) + EPS_CLIP), max=1.0)
                    grads = [grad * scale for grad in grads]
                for options, group, moments, lr in zip(layout.options, weights, kept, window_lrs, strict=True):
                    rules.update(layout.kind, options, group, grads[: len(group)], moments, lr)
                    grads = grads[len(group) :]
        return losses

    return steps


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, from the left."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def compiled(function: Program) -> Program:
    """`function` as one graph of fixed shapes, drawing random numbers as eager code does.

    It gets a code object of its own: torch counts recompilations by code object, and refuses a ninth. Before each call
    torch looks whether anything has changed that the program was made of; what cannot, is not looked at.
    """
    code = function.__code__.replace(co_name=f"{function.__name__}_compiled")
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    given = "|".join(code.co_varnames[3 : code.co_argcount])  # batches and learning rates: of the program's own form
    certain = re.compile(rf"^(L\['|)({given})\b|__import_(torch|clearloop|contextlib)|__builtins_dict__")
    guards = {"guard_filter_fn": lambda entries: [not certain.search(entry.name) for entry in entries]}
    program: Program = torch.compile(own, fullgraph=True, dynamic=False, options={**OPTIONS, **guards})
    return program
