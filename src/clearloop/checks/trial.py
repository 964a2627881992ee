"""A few steps of training on copies, and what is seen on the way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from clearloop.checks.activations import Activations, Layer
from clearloop.checks.subject import Copy, Subject, first_batches, flat, taken
from clearloop.devices import make_scaler
from clearloop.preflight import one_line
from clearloop.step import set_lr, update
from clearloop.tree import first_tensor, length

STEPS, SECONDS = 20, 5.0  # of the trial: whatever ends first, but two steps at least
MOVED_STEPS = 3  # of these it is seen how far weights move; behind weights that begin at 0 none does in the first
OVERFIT_STEPS, OVERFIT_SECONDS = 100, 10.0  # at each learning rate, and in all
OVERFIT_LRS = (1e-3, 1e-2, 1e-1)  # deep nets take the first, small ones another
OVERFIT_SAMPLES = 8


@dataclass
class Trial:
    """What some steps with the Learner's own optimizer were like; parameters go by name."""

    own: Copy
    losses: list[float] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)  # largest |gradient| of all steps; absent: none came
    moved: dict[str, float] = field(default_factory=dict)  # largest |change| / |weight| of the first steps
    kept: list[str] = field(default_factory=list)  # parameters whose gradient was still there after a step
    outside: list[str] = field(default_factory=list)  # parameters that the optimizer was not given
    layers: list[Layer] = field(default_factory=list)  # the activations after the last step
    error: str | None = None  # what a step raised


def try_training(subject: Subject) -> Trial:
    """Take up to `STEPS` steps of the run on a copy, at one learning rate. Raises: CannotCopy."""
    trial = Trial(subject.copied())
    own, named = trial.own, dict(trial.own.model.named_parameters())
    given = {id(parameter) for group in own.opt.param_groups for parameter in group["params"]}
    trial.outside = [name for name, tensor in named.items() if tensor.requires_grad and id(tensor) not in given]
    scaler = make_scaler(subject.learn.precision, subject.device)
    set_lr(own.opt, subject.lr)
    own.model.zero_grad()
    ends = time.perf_counter() + SECONDS
    for inputs, targets in first_batches(subject, STEPS):
        early = len(trial.losses) < MOVED_STEPS
        before = {name: tensor.detach().clone() for name, tensor in named.items()} if early else {}
        try:
            loss = own.loss_func(own.forward(inputs), targets)
            (loss if scaler is None else scaler.scale(loss)).backward()
            note_gradients(trial, named)
            update(own.opt, subject.state.clip, scaler)
        except Exception as error:  # model, loss and optimizer may be a user's
            trial.error = one_line(error)
            break
        for name, tensor in before.items():
            if size := float(tensor.norm()):
                share = float((named[name].detach() - tensor).norm()) / size
                trial.moved[name] = max(trial.moved.get(name, 0.0), share)
        inside = ((name, tensor) for name, tensor in named.items() if id(tensor) in given)
        trial.kept = [name for name, tensor in inside if tensor.grad is not None and bool(tensor.grad.any())]
        trial.losses.append(float(loss.detach()))
        if not math.isfinite(trial.losses[-1]) or len(trial.losses) > 1 and time.perf_counter() > ends:
            break
    with torch.no_grad(), Activations() as seen:
        own.forward(subject.batch[0])
    trial.layers = seen.layers
    return trial


def note_gradients(trial: Trial, named: dict[str, nn.Parameter]) -> None:
    """Keep the largest gradient of each parameter that has one; this waits for the device."""
    for name, parameter in named.items():
        if parameter.grad is not None and parameter.grad.numel():
            grad = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            trial.gradients[name] = max(trial.gradients.get(name, 0.0), float(grad.abs().max()))


@dataclass(frozen=True)
class Overfit:
    """How far the loss of one small batch fell: `first` to `last`, in `steps`, and whether every class came right."""

    samples: int
    first: float
    last: float
    steps: int
    all_right: bool
    astray: bool  # the loss fell below 0 while predictions got worse
    out_of_time: bool
    own: Copy

    @property
    def share(self) -> float:
        """What is left of the loss; 1 where it did not fall, 0 or less where it fell that far."""
        return self.last / self.first if self.first > 0 and math.isfinite(self.last) else 1.0


def overfit(subject: Subject) -> Overfit:
    """Train a copy on a few different samples, without dropout, with Adam at several rates; the best of them.

    Raises: CannotCopy.
    """
    ends = time.perf_counter() + OVERFIT_SECONDS
    best: Overfit | None = None
    rows = [row.numpy().tobytes() for row in flat(subject.batch[0])]
    different = torch.tensor([place for place, row in enumerate(rows) if row not in rows[:place]][:OVERFIT_SAMPLES])
    batch = taken(subject.batch, different)
    for lr in OVERFIT_LRS:
        found = overfit_at(subject, batch, lr, ends)
        if best is None or (found.all_right, -found.share) > (best.all_right, -best.share):
            best = found
        if learned(best) or time.perf_counter() > ends:
            break
    assert best is not None
    return best


def overfit_at(subject: Subject, batch: Any, lr: float, ends: float) -> Overfit:
    """The same at one learning rate, until `ends` at the latest."""
    own = subject.copied()
    inputs, targets = batch
    for module in own.model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    trained = [parameter for parameter in own.model.parameters() if parameter.requires_grad]
    opt = torch.optim.Adam(trained, lr)
    first = last = math.inf
    steps, right, late, mistaken = 0, False, False, 0.0
    for step in range(OVERFIT_STEPS + 1):
        preds = own.forward(inputs)
        loss = own.loss_func(preds, targets)
        last, wrong = float(loss.detach()), mistakes(subject, preds, targets)
        first, mistaken = (last, wrong) if step == 0 else (first, mistaken)
        right = subject.kind == "classes" and wrong == 0
        late = step > 1 and time.perf_counter() > ends
        steps = step
        if step == OVERFIT_STEPS or late or not math.isfinite(last) or last < 0.05 * first and (right or first > 0):
            break
        opt.zero_grad()
        loss.backward()
        opt.step()
    astray = last < 0 and last < first and wrong > mistaken
    return Overfit(length(inputs), first, last, steps, right, astray, late, own)


def mistakes(subject: Subject, preds: Any, targets: Any) -> float:
    """How wrong predictions are, whatever the loss says: the share of wrong classes, the squared error of values."""
    output: Tensor = first_tensor(preds)
    if subject.kind == "classes":
        return float((output.argmax(1) != targets).double().mean())
    return float((output.detach() - targets).double().square().mean()) if subject.kind == "values" else 0.0


def learned(found: Overfit) -> bool:
    """Whether the batch is known by heart: the loss nearly gone, or every class right and the loss well down."""
    return found.share < 0.2 or found.all_right and found.share < 0.5
