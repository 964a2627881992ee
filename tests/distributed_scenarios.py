"""Small trainings that one process and several must agree on: called in the tests' own process, or by torchrun.

    torchrun ... distributed_scenarios.py FOLDER [train DATA ...]

runs all of them, leaves what each rank found in FOLDER/RANK.pt, then runs the command line.
"""

import os
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import clearloop as cl
from clearloop import metrics
from clearloop.data import augment
from clearloop.data.mnist import mnist
from clearloop.weights import snapshot
from distributed_run import command_line

CASES = {}


def case(function):
    """Run by its name, in every world size."""
    CASES[function.__name__] = function
    return function


def digits(samples=203, valid=45, batch_size=32, **options):
    """A little of MNIST; neither sizes nor batches divide by 2 or 4."""
    data = mnist()
    images, labels = data.train_images[: samples + valid].float().div(255).unsqueeze(1), data.train_labels[:1000].long()
    train = cl.TensorDataset(images[:samples], labels[:samples])
    held = cl.TensorDataset(images[samples:], labels[samples : samples + valid])
    return cl.DataLoaders(cl.DataLoader(train, batch_size, shuffle=True, seed=1, **options), cl.DataLoader(held, 16))


def net(*widths):
    torch.manual_seed(7)
    return cl.models.mlp(784, *(widths or (16,)), 10)


def results(learn):
    return {
        "losses": learn.history.losses,
        "counts": [float(count) for count in learn.history.counts],
        "lrs": learn.history.lrs,
        "values": learn.history.values,
        "weights": snapshot(learn.model),
    }


@case
def plain():
    number = cl.Metric("samples", lambda preds, targets: torch.tensor(float(len(targets))), float)
    measured = [cl.accuracy, metrics.top_k_accuracy(3), number]
    learn = cl.Learner(digits(), net(), F.cross_entropy, torch.optim.Adam, metrics=measured, seed=0)
    learn.fit_one_cycle(3, 0.003, quiet=True)
    preds, targets = learn.get_preds()
    return {**results(learn), "preds": preds, "targets": targets, "again": learn.validate()}


@case
def few_samples():
    learn = cl.Learner(digits(7, 2, batch_size=3), net(), F.cross_entropy, lr=0.1, metrics=cl.accuracy, seed=0)
    learn.fit(3, quiet=True)
    return results(learn)


@case
def accumulated_and_clipped():
    learn = cl.Learner(digits(103, batch_size=10), net(), F.cross_entropy, lr=0.5, accumulate=3, clip=0.2, seed=0)
    learn.fit(2, quiet=True)
    return results(learn)


@case
def weighted_classes():
    """Half of the labels do not count, in a row in each batch, so that some shares have none that does."""
    dls = digits(64, 30, batch_size=8)
    labels = dls.train.dataset.tensors[1]
    labels[dls.train.sampler.order(0).view(8, 8)[:, :4].flatten()] = 3
    loss = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10), ignore_index=3)
    learn = cl.Learner(dls, net(), loss, lr=0.1, accumulate=2, seed=0)
    learn.fit(2, quiet=True)
    return results(learn)


@case
def augmented():
    learn = cl.Learner(digits(augment=augment.random_shift(2)), net(), F.cross_entropy, lr=0.1, seed=0)
    learn.fit(1, quiet=True)
    return results(learn)


class Noisy(torch.utils.data.Dataset):
    """Items that draw random numbers."""

    def __len__(self):
        return 21

    def __getitem__(self, index):
        return torch.rand(4) + index, index % 3


@case
def items_with_workers():
    torch.manual_seed(7)
    dls = cl.DataLoader(Noisy(), 8, shuffle=True, seed=3, num_workers=1), cl.DataLoader(Noisy(), 8, seed=4)
    learn = cl.Learner(dls, nn.Linear(4, 3), F.cross_entropy, lr=0.01, seed=0)
    learn.fit(2, quiet=True)
    return results(learn)


class Partly(nn.Module):
    """A model of two inputs, with a layer that is never used and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, a, b):
        return self.frozen(self.used(a * b))


@case
def unused_and_thawed():
    torch.manual_seed(7)
    data = cl.TensorDataset(torch.randn(30, 3), torch.randn(30, 3), torch.randn(30, 2))
    model = Partly()
    learn = cl.Learner((cl.DataLoader(data, 7, shuffle=True, seed=0), None), model, F.mse_loss, lr=0.1, seed=0)
    learn.fit(1, quiet=True)
    model.frozen.requires_grad_(True)
    learn.fit(1, quiet=True)
    return results(learn)


@case
def plateau_and_early_stopping():
    learn = cl.Learner(
        digits(),
        net(),
        F.cross_entropy,
        lr=1.0,
        metrics=cl.accuracy,
        seed=0,
        cbs=[cl.EarlyStopping(patience=2), cl.EMA(0.9)],
    )
    learn.fit(8, schedule=partial(ReduceLROnPlateau, factor=0.1, patience=0), quiet=True)
    return {**results(learn), "reason": learn.stop_reason}


class Median(nn.Module):
    """A metric with a state of its own, which no sums give; as torchmetrics' do, it asks the others if it may."""

    def __init__(self):
        super().__init__()
        self.sync_on_compute = True
        self.reset()

    def reset(self):
        self.seen = []

    def update(self, preds, targets):
        self.seen.append(preds.max(dim=1).values)

    def compute(self):
        assert not self.sync_on_compute, "it would count every sample more than once"
        return torch.cat(self.seen).median()


@case
def metric_with_a_state():
    learn = cl.Learner(digits(), net(), F.cross_entropy, lr=0.1, metrics=[Median(), cl.accuracy], seed=0)
    learn.fit(1, quiet=True)
    return results(learn)


class Collecting(cl.Callback):
    """Which samples this process sees, step by step."""

    def __init__(self):
        self.seen = []

    def before_step(self, learn):
        self.seen.append([int(index) for inputs, _ in learn.window for index in inputs[:, 0]])


@case
def samples():
    data = cl.TensorDataset(torch.arange(53.0).view(-1, 1), torch.zeros(53, 1))
    dls = cl.DataLoader(data, 10, shuffle=True, seed=2), None
    learn = cl.Learner(dls, nn.Linear(1, 1), F.mse_loss, lr=0.0, seed=0, cbs=Collecting(), accumulate=2)
    learn.fit(2, quiet=True)
    return {"seen": learn.cbs[0].seen, "whole": [learn.dls.train.sampler.order(epoch).tolist() for epoch in range(2)]}


class Drawing(nn.Module):
    """Notes a random number of each forward pass of training."""

    def __init__(self):
        super().__init__()
        self.layer, self.drawn = nn.Linear(784, 10), []

    def forward(self, inputs):
        if self.training and torch.is_grad_enabled():
            self.drawn.append(float(torch.rand(())))
        return self.layer(inputs.flatten(1))


@case
def random_states():
    torch.manual_seed(7)
    learn = cl.Learner(digits(), Drawing(), F.cross_entropy, lr=0.1, seed=5)
    learn.fit(2, quiet=True)
    return {"drawn": learn.model.drawn[-2 * learn.steps_per_epoch :]}


@case
def unseeded():
    """Nothing is seeded: each process builds other weights and draws other seeds."""
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    data = digits()
    dls = cl.DataLoaders(cl.DataLoader(data.train.dataset, 32, shuffle=True), data.valid)
    learn = cl.Learner(dls, cl.models.mlp(784, 16, 10), F.cross_entropy, lr=0.1)
    learn.fit(1, quiet=True)
    return results(learn)


@case
def batch_norm():
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 10)
    )
    learn = cl.Learner(digits(64, 32), model, F.cross_entropy, lr=0.1, seed=0, cbs=cl.EMA(0.5))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        learn.fit(2, quiet=True)
    averages = {name: tensor.clone() for name, tensor in learn.cbs[0].averages.items()}
    return {**results(learn), "averages": averages, "told": [str(warning.message) for warning in told]}


class Signalling(nn.Module):
    """While it validates, the last process gets a SIGTERM."""

    def __init__(self):
        super().__init__()
        self.inner, self.left = net(), None

    def forward(self, inputs):
        if self.left is not None and not self.training:
            self.left -= 1
            time.sleep(0.01)
            if self.left == 97 and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", 1)) - 1):
                os.kill(os.getpid(), signal.SIGTERM)
        return self.inner(inputs)


@case
def signal_in_validation():
    learn = cl.Learner(digits(203, 640), Signalling(), F.cross_entropy, lr=0.1, metrics=cl.accuracy, seed=0)
    learn.prepared()
    learn.model.left = 100
    try:
        learn.fit(2, quiet=True)
        ended = None
    except SystemExit as end:
        ended = end.code
    validated, at, learn.model.left = 100 - learn.model.left, [learn.epoch, learn.step, learn.whole], None
    learn.resume(quiet=True)
    return {**results(learn), "ended": ended, "validated": validated, "at": at}


@case
def timed():
    learn = cl.Learner(
        (cl.DataLoader(Slow(), 8, seed=3), None), nn.Linear(4, 3), F.cross_entropy, lr=0.01, seed=0,
        cbs=cl.Timing(log=lambda line: None),
    )  # fmt: skip
    learn.fit(1, quiet=True)
    return {"data": [times.data for times in learn.cbs[0].records]}


class Slow(Noisy):
    """Items that take their time."""

    def __getitem__(self, index):
        time.sleep(0.01)
        return super().__getitem__(index)


@case
def lr_finder():
    learn = cl.Learner(digits(), net(), F.cross_entropy, seed=0)
    found = learn.lr_find(steps=20)
    return {"lrs": found.lrs, "losses": found.losses}


@case
def refusals():
    found = []
    data = digits()

    def refused(make):
        try:
            make()
        except cl.ClearloopError as error:
            found.append(f"{type(error).__name__}: {error}")

    loader = torch.utils.data.DataLoader(data.train.dataset, 8)
    refused(lambda: cl.Learner((loader, None), net(), F.cross_entropy))
    refused(lambda: cl.Learner(data, nn.DataParallel(net()), F.cross_entropy))
    rank = int(os.environ.get("RANK", 0))
    refused(lambda: cl.Learner(digits(100 + rank), net(), F.cross_entropy))
    refused(lambda: cl.Learner(data, net(16 + rank), F.cross_entropy))
    other = digits()
    other.train.dataset.tensors[0][:] += rank
    learn = cl.Learner(other, net(), F.cross_entropy, lr=0.1, seed=0)
    refused(lambda: learn.fit(1, quiet=True))
    learn = cl.Learner(digits(), net(), F.cross_entropy, lr=0.1, seed=0, device="cpu", cbs=cl.SyncBatchNorm())
    refused(lambda: learn.fit(1, quiet=True))
    return {"refused": found}


def five_hundred_steps():
    """No case: too long for every test."""
    learn = cl.Learner(digits(640, 64), net(32), F.cross_entropy, lr=0.1, seed=0)
    learn.fit(25, quiet=True)
    return results(learn)


def main(folder, *command):
    torch.set_num_threads(1)
    torch.save({name: run() for name, run in CASES.items()}, Path(folder) / f"{os.environ['RANK']}.pt")
    if command:
        sys.argv = ["clearloop", *command]
        command_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
