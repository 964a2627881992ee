"""The engine of several processes: each takes its share of every batch, DistributedDataParallel adds gradients up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clearloop.data.shares import Shares
from clearloop.distributed import Team, digest
from clearloop.engines.eager import EagerEngine, ended
from clearloop.engines.engine import Engine
from clearloop.errors import DataError
from clearloop.guard import evaluating
from clearloop.step import Span, TrainState, accumulated_step, pair, set_lr, train_step
from clearloop.tree import leaves, length, tree_map


class Forward(nn.Module):
    """A model as `state.forward` calls it, so that DistributedDataParallel wraps autocast and inputs of any form."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.model, self.call = state.model, state.forward

    def forward(self, inputs: Any) -> Any:
        """The model's outputs."""
        return self.call(inputs)


class DistributedEngine(Engine):
    """Takes the steps of a span together with the other processes; losses and counts are those of all of them.

    A share weighs `its samples * processes / all samples`, as DistributedDataParallel takes the mean over processes. A
    process without samples takes part with one that weighs nothing. Buffers are rank 0's at the end of a span, so that
    callbacks and evaluations see one model. Once a span, losses are added up, and the clock and signals go with them.
    """

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team
        self.alone = EagerEngine()  # for what every process does by itself
        self._parts: tuple[Any, ...] = ()
        self._wrapped: Any = None
        self._few: Any = None  # a few samples, for a process that has none

    def run(self, state: TrainState, span: Span) -> tuple[list[Tensor], list[Any]]:
        """Take the steps of `span`: their losses and counts, over all processes."""
        with self.team.together():
            model = self._model(state)
            losses, totals = [], []
            for step in range(span.steps):
                if span.lrs is not None:
                    set_lr(state.opt, span.lrs[step])
                window = [pair(batch) for batch in islice(span.batches, span.accumulate)] or ended()
                counts = [state.count(targets) if length(targets) else 0 for _, targets in window]
                totals.append(self._total(state, span, counts))
                losses.append(self._step(state, model, window, counts, totals[-1]))
            self.team.broadcast(list(state.model.buffers()))
            means = self.team.exchange(torch.stack(losses)).sum(dim=0) / self.team.world_size  # (steps,)
        return list(means), totals

    def _step(self, state: TrainState, model: Any, window: list[Any], counts: list[Any], total: Any) -> Tensor:
        """One update from this process's share of a window of batches, with those of the others."""
        loss = scaled(state, sum(counts) * self.team.world_size / (total or math.nan))
        parts = [part if length(part[1]) else self._few for part in window]
        if len(parts) == 1:
            inputs, targets = parts[0]
            return train_step(model, loss, state.opt, inputs, targets, state.clip, state.scaler)
        weights = counts if sum(counts) else [1] * len(counts)
        return accumulated_step(model, loss, state.opt, in_turn(model, parts), weights, state.clip, state.scaler)

    def _total(self, state: TrainState, span: Span, counts: list[Any]) -> Any:
        """What all processes together have in a step: known from the batches, unless a loss weighs samples."""
        if isinstance(span.batches, Shares) and state.count is length:
            return span.batches.taken()
        total = float(self.team.add(torch.tensor([float(sum(counts))], dtype=torch.float64)))
        return int(total) if state.count is length else total

    def _model(self, state: TrainState) -> Any:
        """The model, wrapped; again where other parameters are to be trained than before."""
        parts = (state, *(parameter for parameter in state.model.parameters() if parameter.requires_grad))
        if len(parts) != len(self._parts) or any(a is not b for a, b in zip(parts, self._parts, strict=True)):
            self._wrapped = None  # its hooks go before new ones come
            self._wrapped, self._parts = self._wrap(state), parts
        return self._wrapped

    def _wrap(self, state: TrainState) -> Any:
        self.team.require_same("first batches", digest(state.example), DataError)
        each = max(2, -(-length(state.example[1]) // self.team.world_size))
        self._few = tree_map(lambda tensor: tensor[:each] if tensor.ndim else tensor, state.example)
        whole = self.team.world_size == 1 or not any(by_itself(module) for module in state.model.modules())
        if self.team.leads and not whole:
            warnings.warn(
                f"batch norm: each of the {self.team.world_size} processes normalises its share of a batch by itself",
                stacklevel=2,
            )
        inner = Forward(state)
        with evaluating(state.model), torch.enable_grad():  # without a trace
            state.model.train()
            trained = [parameter for parameter in inner.parameters() if parameter.requires_grad]
            grads = torch.autograd.grad(self._loss(state, inner), trained, allow_unused=True)
            unused = any(grad is None for grad in grads)
            model = DistributedDataParallel(inner, find_unused_parameters=unused)
            # After its first step it sorts gradients into other messages, which could change the order of sums: a run
            # that is resumed must not differ in that from one that never stopped.
            self._loss(state, model).backward()
            state.model.zero_grad()
        return model

    def _loss(self, state: TrainState, model: Any) -> Tensor:
        inputs, targets = self._few
        loss: Tensor = scaled(state)(model(inputs), targets)
        return loss


def by_itself(module: nn.Module) -> bool:
    """Whether it normalises with the statistics of one process."""
    return isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)


def in_turn(model: DistributedDataParallel, window: list[Any]) -> Iterator[Any]:
    """The batches of a window; gradients go to the other processes with the last one only."""
    for part in window[:-1]:
        with model.no_sync():
            yield part
    yield window[-1]


def scaled(state: TrainState, share: Any = 1.0) -> Any:
    """The loss times `share`; 0 where a share has no targets that count, of which a mean would be NaN."""

    def loss(preds: Any, targets: Any) -> Any:
        if state.count is length or float(state.count(targets)):
            return state.loss_func(preds, targets) * share
        return sum(0.0 * leaf.float().sum() for leaf in leaves(preds) if isinstance(leaf, Tensor))

    return loss
