"""What the checks look at: a Learner's parts, some of its samples, and copies to train on. Nothing here changes it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clearloop import environment, rng
from clearloop.checks.activations import Activations, Layer
from clearloop.checks.losses import Meaning, meaning_of
from clearloop.data.dataset import ItemDataset
from clearloop.data.loader import DataLoader, ForeignLoader, Loader
from clearloop.data.sampler import shuffled_order
from clearloop.devices import under_autocast
from clearloop.guard import evaluating
from clearloop.learner import Learner
from clearloop.preflight import callable_for, one_line
from clearloop.step import pair
from clearloop.tree import concatenate, first_tensor, leaves, length, tree_map

SAMPLES, ITEMS = 1024, 256  # how many are looked at: of data that are gathered, and of those asked for one by one
BATCH = 128  # how many go through the model at once
SAMPLE_BYTES = 2**26  # no more than that either, but for SAMPLES_AT_LEAST
SAMPLES_AT_LEAST = 16

Kind = Literal["classes", "binary", "values", "other"]


class CannotCopy(Exception):
    """The model or its optimizer cannot be copied, so nothing can be tried on it."""


@dataclass(frozen=True)
class Sample:
    """Some samples as the model is given them, on its device, and how many there are in all."""

    inputs: Any
    targets: Any
    total: int

    def __len__(self) -> int:
        return length(self.inputs)

    def first(self, count: int) -> tuple[Any, Any]:
        """Inputs and targets of the first of them."""
        return few(self.inputs, count), few(self.targets, count)

    def __str__(self) -> str:
        return f"{len(self):,} of {self.total:,} samples" if len(self) < self.total else f"all {self.total:,} samples"


@dataclass(frozen=True)
class Copy:
    """A model of its own with its optimizer, to be trained and thrown away."""

    model: nn.Module
    opt: Any
    loss_func: Any
    forward: Any


@dataclass(frozen=True)
class Start:
    """A forward pass in training mode: outputs, targets, loss, and the activations on the way."""

    preds: Any
    targets: Any
    loss: float
    layers: list[Layer]
    bounding: str | None  # the activation that the outputs come out of, if any


class Subject:
    """A Learner that is looked at, with what several checks need; computed when it is first asked for."""

    def __init__(self, learn: Learner, lr: float) -> None:
        self.learn, self.state, self.lr = learn, learn.prepared(), lr
        self.device = learn.device

    @cached_property
    def train(self) -> Sample:
        """Training samples, chosen at random, augmented as in training."""
        return look(self.learn.dls.train, self.device, sample_bytes(self.state.example[0]))

    @cached_property
    def valid(self) -> Sample | None:
        """Validation samples likewise; None without a validation set."""
        loader = self.learn.dls.valid
        return None if loader is None else look(loader, self.device, sample_bytes(self.state.example[0]))

    @cached_property
    def batch(self) -> tuple[Any, Any]:
        """Inputs and targets for one forward pass: at most `BATCH`, and fewer of large samples."""
        size = sample_bytes(self.train.inputs)
        return self.train.first(max(SAMPLES_AT_LEAST, min(BATCH, SAMPLE_BYTES // 4 // size)))

    @cached_property
    def preds(self) -> Any:
        """What the model gives for `batch`, in evaluation mode."""
        return self.evaluate(self.batch[0])

    def evaluate(self, inputs: Any) -> Any:
        """The Learner's own model in evaluation mode, from the same random states each time."""
        with evaluating(self.state.model), torch.no_grad():
            return self.state.forward(inputs)

    @cached_property
    def meaning(self) -> Meaning:
        """What the loss takes the outputs for."""
        return meaning_of(self.state.loss_func, first_tensor(self.preds), self.batch[1])

    @cached_property
    def kind(self) -> Kind:
        """What the targets are."""
        preds, targets = first_tensor(self.preds), self.batch[1]
        if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
            return "other"
        if not targets.is_floating_point() and preds.ndim == targets.ndim + 1 and preds.shape[1] > 1:
            return "classes"
        if self.meaning in ("bce_logits", "bce", "mnist_loss"):
            return "binary"
        if targets.is_floating_point() and preds.shape == targets.shape and self.meaning != "soft_cross_entropy":
            return "values"
        return "other"

    def copied(self) -> Copy:
        """Copies of model, optimizer and loss that share nothing with the Learner's. Raises: CannotCopy."""
        state, precision = self.state, self.learn.precision
        try:
            model, opt, loss_func = copy.deepcopy((state.model, state.opt, state.loss_func))
        except Exception as error:  # what a user put into a module can refuse in any way
            raise CannotCopy(f"the model cannot be copied: {one_line(error).partition('. ')[0]}") from error
        model.train()
        forward = under_autocast(callable_for(model, state.example[0]), precision, self.device)
        return Copy(model, opt, loss_func, forward)

    @cached_property
    def start(self) -> Start:
        """How training begins: a forward pass of a copy in training mode. Raises: CannotCopy."""
        inputs, targets = self.batch
        own = self.copied()
        with torch.no_grad(), Activations() as seen:
            preds = own.forward(inputs)
        with torch.no_grad():
            loss = float(own.loss_func(preds, targets))
        output = first_tensor(preds)
        bounding = seen.bounding(output) if isinstance(output, Tensor) else None
        return Start(preds, targets, loss, seen.layers, bounding)


def few(tree: Any, count: int) -> Any:
    """The first samples of a batch."""
    return tree_map(lambda tensor: tensor[:count] if tensor.ndim else tensor, tree)


def taken(tree: Any, rows: Tensor) -> Any:
    """Chosen samples of a batch, by an int64 tensor of shape (count,)."""
    return tree_map(lambda tensor: tensor[rows.to(tensor.device)] if tensor.ndim else tensor, tree)


def sample_bytes(inputs: Any) -> int:
    """How much memory one sample takes, at least 1."""
    tensors = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return max(1, sum(tensor[:1].numel() * tensor.element_size() for tensor in tensors))


class Chosen:
    """The same few samples in every epoch, drawn without replacement."""

    def __init__(self, samples: int, count: int) -> None:
        self.indices = shuffled_order(samples, seed=0, epoch=0)[:count]

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, epoch: int) -> Tensor:
        """Indices, whatever the epoch."""
        return self.indices


def look(loader: Loader, device: torch.device, size: int) -> Sample:
    """Some samples of a loader, of `size` bytes each: drawn at random where it is ours, else its first batches."""
    most = max(SAMPLES_AT_LEAST, min(SAMPLES, SAMPLE_BYTES // size))
    if isinstance(loader, DataLoader):
        samples = len(loader.dataset)
        chosen = Chosen(samples, min(most, ITEMS) if isinstance(loader.dataset, ItemDataset) else most)
        small = DataLoader(
            loader.dataset, 64, sampler=chosen, seed=loader.seed, augment=loader.augment, collate_fn=loader.collate_fn
        )
        found = [pair(batch) for batch in small.batches(0, device=device)]
    else:
        found, seen = [], 0
        for batch in loader.batches(0, device=device):
            found.append(pair(batch))
            seen += length(found[-1][0])
            if seen >= min(most, ITEMS):
                break
        dataset: Any = loader.dataset
        samples = max(seen, len(dataset) if hasattr(dataset, "__len__") else 0)
    inputs, targets = concatenate(found)
    return Sample(inputs, targets, samples)


def flat(tree: Any, most: int = 4096) -> Tensor:
    """All numbers of each sample in a row: float64 of shape (samples, numbers) on the CPU; of many, evenly chosen ones.

    >>> flat((torch.ones(2, 3, 4), torch.zeros(2, 1))).shape
    torch.Size([2, 13])
    """
    tensors = [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.ndim]
    rows = torch.cat([tensor.detach().reshape(len(tensor), -1).cpu().double() for tensor in tensors], dim=1)
    return rows[:, :: -(-rows.shape[1] // most)] if rows.shape[1] > most else rows


@contextmanager
def leaving_no_trace(learn: Learner) -> Iterator[None]:
    """Modes, buffers, gradients, random states, threads and the generators of loaders are afterwards as before."""
    parameters = list(learn.model.parameters())
    grads = [(parameter, parameter.grad) for parameter in parameters]
    copies = [None if grad is None else grad.clone() for _, grad in grads]
    generators = [found for loader in learn.dls if loader is not None for found in generators_of(loader)]
    states = [generator.get_state() for generator in generators]
    with ExitStack() as stack:
        stack.enter_context(environment.threads(learn.threads))
        stack.enter_context(evaluating(learn.model))  # random states as well
        try:
            rng.restore(learn.random_states)
            yield
        finally:
            for (parameter, grad), before in zip(grads, copies, strict=True):
                if grad is not None and before is not None:
                    grad.copy_(before)  # a loss may reach the weights by itself, for a penalty, say
                parameter.grad = grad
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def generators_of(loader: Loader) -> list[torch.Generator]:
    """The generators of its own that a loader of torch's draws its order from."""
    if not isinstance(loader, ForeignLoader):
        return []
    owners = (loader.loader, getattr(loader.loader, "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def first_batches(subject: Subject, count: int) -> Iterator[tuple[Any, Any]]:
    """The first batches of training, (inputs, targets), over as many epochs as that takes."""
    loader = subject.learn.dls.train
    epochs = (loader.batches(epoch, device=subject.device) for epoch in range(count))
    return map(pair, islice(chain.from_iterable(epochs), count))
